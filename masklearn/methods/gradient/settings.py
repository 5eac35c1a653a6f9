"""Settings of the gradient methods, with values that change over the budget."""

from dataclasses import dataclass

_HIGH_RATIO = 0.45  # from this ratio on, τ starts at the method's own value
_TRAVEL = 0.1  # distance that a logit can move with rate 1e-4 in 2000 steps, the least of the papers


@dataclass(frozen=True)
class Span:
    """Value that changes linearly from `first` to `last` over the budget."""

    first: float
    last: float

    def at(self, fraction: float) -> float:
        """Returns the value when the share `fraction` (0 ... 1) of the budget is used."""
        share = min(max(fraction, 0.0), 1.0)
        return (1.0 - share) * self.first + share * self.last


@dataclass(frozen=True)
class MaskSettings:
    """Settings of a method (PATCH, arXiv 2509.23410; MaskLLM, arXiv 2409.17481).

    tile_scale, pattern_scale: κ of the tile and the pattern logits, None if these do not train; temperature: τ of both;
    density_weight: λ₁; norm_weight: λ₂; learning_rate, warmup, betas: see `Schedule`. The papers train for 2000 steps of
    128 to 256 windows of 4096 tokens.
    """

    tile_scale: Span | None
    pattern_scale: Span | None
    temperature: Span
    density_weight: float
    norm_weight: float
    learning_rate: float
    warmup: int = 5
    betas: tuple[float, float] = (0.9, 0.95)

    @property
    def learns_tiles(self) -> bool:
        return self.tile_scale is not None

    @property
    def learns_patterns(self) -> bool:
        return self.pattern_scale is not None

    def temperature_for(self, ratio: float) -> Span:
        """Returns τ for a ratio. Below ratio .45, where more tiles stay dense, it starts at 2 or less."""
        first = self.temperature.first
        return self.temperature if ratio >= _HIGH_RATIO else Span(min(first, 2.0), self.temperature.last)

    def tile_rate(self, steps: int) -> float:
        """Returns the learning rate of the tile logits: the method's, or a higher rate if there are too few steps for it.

        Adam with cosine decay moves a logit by at most rate·steps/2, and the prior's two values are 0.084 apart, so a low
        rate could not change a tile in few steps. Pattern logits keep the method's rate. Their gradients come from four
        weights each and are mostly noise in batches of thousands of tokens (SmolLM2-135M, 16 steps of 512 tokens at rate
        .01: 17 % of the patterns changed, and the KL from the dense model rose from 1.1 to 1.9). The gradient of a tile
        sums over thousands of weights.
        """
        return max(self.learning_rate, 2.0 * _TRAVEL / steps)
