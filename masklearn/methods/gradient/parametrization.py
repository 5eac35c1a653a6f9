"""Parametrizes the linears' weights by masks: `linear.weight` is `W ⊙ M`, with a new M drawn in every step."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from masklearn.base.threads import total
from masklearn.masks.tiles import grid_shape, tile_weights
from masklearn.methods.gradient.hybrid import (
    dense_share,
    gumbel,
    spread_tiles,
    weight_of_codes,
    weight_of_logits,
)

__all__ = ["Drawing", "HybridMask", "Sums"]


@dataclass(frozen=True)
class Sums:
    """Sums over one drawn mask, as scalars with gradients.

    sparse: weights in sparse tiles, `Σ a·(1 − M_tile)` with the weights a of a tile; energy: `Σ (W ⊙ M)²`.
    """

    sparse: Tensor
    energy: Tensor


@dataclass
class Drawing:
    """State that all masks of a model share in a step.

    seed, rank, step: determine the noise of a mask together with its place in the model, so that a resumed run and a block
    that gradient checkpointing runs again draw the same masks; tile_scale, pattern_scale: κ of the tile and the pattern
    logits; temperature: τ of both; masked: False for the dense weights; record: receives the sums of drawn masks by place,
    None while a block runs again.
    """

    seed: int
    rank: int = 0
    step: int = 0
    tile_scale: float = 1.0
    pattern_scale: float = 1.0
    temperature: float = 1.0
    masked: bool = True
    record: dict[int, Sums] | None = field(default=None, repr=False)

    def generator(self, place: int, device: torch.device) -> torch.Generator:
        """Returns the generator of one mask's noise in this step; place: the mask's number."""
        state = np.random.SeedSequence([self.seed, self.rank, self.step, place]).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


class HybridMask(nn.Module):
    """Parametrization of one weight `[N, K]`, for `torch.nn.utils.parametrize`.

    tile_logits: `[grid]`, a higher logit is more likely dense; None if every tile is 2:4. pattern_logits: `[N, 6, K/4]`;
    None if the patterns do not train and are `codes`, uint8 `[N, K/4]`.
    """

    areas: Tensor
    codes: Tensor | None

    def __init__(
        self,
        drawing: Drawing,
        place: int,
        shape: tuple[int, int],
        tile: tuple[int, int],
        *,
        tile_logits: Tensor | None,
        pattern_logits: Tensor | None,
        codes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.drawing, self.place, self.shape, self.tile = drawing, place, shape, tile
        self.tile_logits = None if tile_logits is None else nn.Parameter(tile_logits)
        self.pattern_logits = None if pattern_logits is None else nn.Parameter(pattern_logits)
        areas = torch.from_numpy(tile_weights(shape, tile)).float()
        self.register_buffer("areas", areas, persistent=False)
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight under a drawn mask, or unchanged if masks are turned off."""
        if not self.drawing.masked:
            return weight
        masked, sums = self._draw(weight)
        if self.drawing.record is not None:
            self.drawing.record[self.place] = sums
        return masked

    def _draw(self, weight: Tensor) -> tuple[Tensor, Sums]:
        drawing = self.drawing
        generator = drawing.generator(self.place, weight.device)
        dense = self._dense(weight, generator)
        spread = spread_tiles(dense, self.shape, self.tile)
        if self.pattern_logits is None:
            assert self.codes is not None
            masked, energy = weight_of_codes(weight, spread, self.codes)
        else:
            noise = gumbel(self.pattern_logits.shape, weight.device, generator)
            masked, energy = weight_of_logits(
                weight, spread, self.pattern_logits, noise, drawing.pattern_scale, drawing.temperature
            )
        return masked, Sums(total(self.areas * (1.0 - dense)), energy)

    def _dense(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        if self.tile_logits is None:
            return weight.new_zeros(grid_shape(self.shape, self.tile), dtype=torch.float32)
        drawing = self.drawing
        return dense_share(self.tile_logits, drawing.tile_scale, drawing.temperature, generator)
