"""Parametrizes the linears' weights by masks: `linear.weight` is `W ⊙ M`, with a new M drawn in every step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masklearn.base.threads import one_thread, total
from masklearn.masks.nm_codes import PATTERNS
from masklearn.masks.tiles import GROUP, grid_shape, tile_weights
from masklearn.methods.base import Candidate

_PATTERNS = torch.from_numpy(PATTERNS.copy())  # [6, 4] bool

# Prior strength 3 times σ 0.014, both from the papers (PATCH and MaskLLM).
PRIOR_LOGIT = 3 * 0.014

# Range of the offsets that order the first tile logits by the prior's scores. It is smaller than a step of training.
_RANK = 5e-4


def first_pattern_logits(codes: Tensor) -> Tensor:
    """Returns the first pattern logits, fp32 `[N, 6, K/4]`; codes: the prior's patterns, uint8 `[N, K/4]`.

    A logit is `PRIOR_LOGIT` times the likeness of its pattern to the prior's. As in MaskLLM (arXiv 2409.17481), likeness is
    the number of positions that both keep (2, 1 or 0), minus its mean over the six patterns.
    """
    patterns = _PATTERNS.float()
    likeness = (patterns @ patterns.T - 1.0) * PRIOR_LOGIT
    return likeness[codes.int()].transpose(1, 2).contiguous()


def first_tile_logits(
    scores: Mapping[str, NDArray[np.float32]],
    tiles: Mapping[str, NDArray[np.bool_]],
    areas: Mapping[str, NDArray[np.int64]],
) -> dict[str, Tensor]:
    """Returns the first tile logits, fp32 `[grid]`, by linear.

    They are `PRIOR_LOGIT` for tiles that are dense in the prior and -`PRIOR_LOGIT` for 2:4 tiles, plus a small offset in
    the order of the prior's scores per weight.
    """
    per_weight = np.concatenate([(scores[name].astype(np.float64) / areas[name]).ravel() for name in tiles])
    ranks = np.empty(per_weight.size)
    ranks[np.argsort(per_weight, kind="stable")] = np.linspace(-_RANK, _RANK, per_weight.size)
    logits, start = {}, 0
    for name, grid in tiles.items():
        rank = ranks[start : start + grid.size].reshape(grid.shape)
        logits[name] = torch.from_numpy(np.where(grid, -PRIOR_LOGIT, PRIOR_LOGIT) + rank).float()
        start += grid.size
    return logits


def candidate_from_logits(
    pattern_logits: Tensor | None, tile_logits: Tensor | None, prior: Candidate, tile: tuple[int, int]
) -> Candidate:
    """Returns a candidate with the likeliest pattern of every group, and scores in the order of the tile logits.

    A tile's score is exp(logit) · its weights. It is positive, and `select`, which divides it by the weights that the tile
    zeroes, chooses tiles with the lowest logits first. Of equal patterns the lowest code is chosen. Logits that did not
    train are None, and the prior's patterns or scores are used.
    """
    pattern, score = prior.pattern, prior.score
    if pattern_logits is not None:
        pattern = likeliest(pattern_logits).cpu().numpy()
    if tile_logits is not None:
        shape = (pattern.shape[0], pattern.shape[1] * 4)
        cost = tile_logits.double().exp().cpu().numpy() * tile_weights(shape, tile)
        score = cost.astype(np.float32)
    return Candidate(pattern, score)


def likeliest(pattern_logits: Tensor) -> Tensor:
    """Returns the argmax over the six patterns, uint8 `[N, K/4]`; the lowest code if logits are equal.

    torch's argmax does not specify the result for equal values.
    """
    best = pattern_logits[:, 0].clone()
    code = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(1, pattern_logits.shape[1]):
        plane = pattern_logits[:, number]
        higher = plane > best
        code.masked_fill_(higher, number)
        best = torch.where(higher, plane, best)
    return code


def dense_share(logits: Tensor, scale: float, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw M_tile, where 1 is dense: the second component of `gumbel_softmax([0, logits]·κ, τ)` (PATCH, arXiv 2509.23410).

    The softmax over two values is the sigmoid of their difference, and the difference of two Gumbel draws is a logistic
    draw. logits: `[grid]`; scale: κ; temperature: τ.
    """
    noise = _open_uniform(logits.shape, logits.device, generator).logit_()
    return torch.sigmoid((logits * scale + noise) / temperature)


def gumbel(shape: torch.Size, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw from Gumbel(0, 1), fp32."""
    return _open_uniform(shape, device, generator).log_().neg_().log_().neg_()


def spread_tiles(grid: Tensor, shape: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """Expand a value per tile to a value per group: `[grid]` to `[N, K/4]`."""
    tall, wide = (min(size, whole) for size, whole in zip(tile, shape, strict=True))  # a tile may be larger
    rows = grid.repeat_interleave(tall, dim=0)[: shape[0]]
    return rows.repeat_interleave(wide // GROUP, dim=1)[:, : shape[1] // GROUP]


def weight_of_logits(
    weight: Tensor, dense: Tensor, logits: Tensor, noise: Tensor, scale: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Returns `W ⊙ M` in the dtype of W, and `Σ (W ⊙ M)²`, for M_2:4 drawn from pattern logits.

    As in PATCH, M = M_tile + (1 − M_tile) ⊙ M_2:4 and M_2:4 = softmax((κ·logits + noise)/τ) @ patterns.
    weight: `[N, K]`, frozen; dense: M_tile expanded to groups, `[N, K/4]`; logits, noise: `[N, 6, K/4]` fp32, the noise is
    overwritten; scale: κ; temperature: τ. Gradients flow to `dense` and `logits`.
    """
    out: tuple[Tensor, Tensor] = _FromLogits.apply(  # type: ignore[no-untyped-call]
        weight, dense, logits, noise, scale, temperature
    )
    return out


def weight_of_codes(weight: Tensor, dense: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the results of `weight_of_logits` for a fixed M_2:4; codes: uint8 `[N, K/4]`. Gradients flow to `dense`."""
    out: tuple[Tensor, Tensor] = _FromCodes.apply(weight, dense, codes)  # type: ignore[no-untyped-call]
    return out


class _FromLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        dense: Tensor,
        logits: Tensor,
        noise: Tensor,
        scale: float,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        shares = noise.add_(logits, alpha=scale).div_(temperature).softmax(dim=1)
        ctx.save_for_backward(weight, dense, shares)
        ctx.slope = scale / temperature
        return _masked(weight, dense, _from_shares(shares))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, dense, shares = ctx.saved_tensors
        pattern = _from_shares(shares)
        by_mask = _by_mask(weight, dense, pattern, gradients)
        by_dense = (by_mask * (1.0 - pattern)).sum(dim=1)
        by_pattern = by_mask.mul_(1.0 - dense.unsqueeze(1))
        # The gradient of softmax is y ⊙ (g − Σ y·g), and Σ y·g over the six patterns is Σ m·g over the four positions.
        shift = pattern.mul_(by_pattern).sum(dim=1, keepdim=True)
        by_shares = _product(_PATTERNS, by_pattern).sub_(shift)
        return None, by_dense, by_shares.mul_(shares).mul_(ctx.slope), None, None, None


class _FromCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, dense: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, dense, codes)
        return _masked(weight, dense, _from_codes(codes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, dense, codes = ctx.saved_tensors
        pattern = _from_codes(codes)
        by_mask = _by_mask(weight, dense, pattern, gradients)
        return None, by_mask.mul_(1.0 - pattern).sum(dim=1), None


def _masked(weight: Tensor, dense: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
    masked = _mask(dense, pattern).mul_(_planes(weight))
    with one_thread():
        energy = masked.view(-1).dot(masked.view(-1))
    return masked.transpose(1, 2).reshape(weight.shape).to(weight.dtype), energy


def _by_mask(weight: Tensor, dense: Tensor, pattern: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
    """Returns the gradient of the loss with respect to M; gradients: with respect to `W ⊙ M` and `Σ (W ⊙ M)²`."""
    by_masked, by_energy = gradients
    planes = _planes(weight)
    by_mask = _mask(dense, pattern).mul_(planes).mul_(2.0 * by_energy)
    return by_mask.add_(_planes(by_masked)).mul_(planes)


def _mask(dense: Tensor, pattern: Tensor) -> Tensor:
    """Returns M = M_tile + (1 − M_tile) ⊙ M_2:4 as a new tensor `[N, 4, K/4]`."""
    dense = dense.unsqueeze(1)
    return torch.addcmul(dense, pattern, 1.0 - dense)


def _planes(weight: Tensor) -> Tensor:
    """Rearrange `[N, K]` to planes, fp32 `[N, 4, K/4]`."""
    return weight.float().reshape(weight.shape[0], -1, GROUP).transpose(1, 2).contiguous()


def _from_shares(shares: Tensor) -> Tensor:
    """Returns M_2:4 `[N, 4, K/4]` from the shares of the six patterns, `[N, 6, K/4]`."""
    return _product(_PATTERNS.T, shares)


def _product(patterns: Tensor, planes: Tensor) -> Tensor:
    """Multiply in fp32 also under autocast, so that the four values of a group's mask sum to two."""
    with torch.autocast(planes.device.type, enabled=False):
        return patterns.to(planes) @ planes


def _from_codes(codes: Tensor) -> Tensor:
    """Returns M_2:4, fp32 `[N, 4, K/4]`, from codes `[N, K/4]`."""
    table = _PATTERNS.to(codes.device, torch.float32)
    return table[codes.int()].transpose(1, 2).contiguous()


def _open_uniform(shape: torch.Size, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw uniformly from the open interval (0, 1), fp32, so that logarithms are finite."""
    return torch.rand(shape, generator=generator, device=device).clamp_(2.0**-25, 1.0 - 2.0**-24)


@dataclass(frozen=True)
class Sums:
    """Sums over a drawn mask, as scalars with gradients.

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
        """Returns the generator of a mask's noise in this step; place: the mask's number."""
        state = np.random.SeedSequence([self.seed, self.rank, self.step, place]).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


class HybridMask(nn.Module):
    """Parametrization of a weight `[N, K]`, for `torch.nn.utils.parametrize`.

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
