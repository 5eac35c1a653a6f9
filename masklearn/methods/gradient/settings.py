"""What a gradient method is set to, and the schedules that run over its budget."""

from dataclasses import dataclass

__all__ = ["MaskSettings", "Span"]

_HIGH_RATIO = 0.45  # from here on the tiles' choice starts softer
_TRAVEL = 0.1  # what rate 1e-4 and 2000 steps, the papers' least, amount to


@dataclass(frozen=True)
class Span:
    """A value that goes linearly from `first` to `last` while the budget is used up."""

    first: float
    last: float

    def at(self, fraction: float) -> float:
        """The value when `fraction` (0 ... 1) of the budget is used."""
        share = min(max(fraction, 0.0), 1.0)
        return (1.0 - share) * self.first + share * self.last


@dataclass(frozen=True)
class MaskSettings:
    """Settings of one method (PATCH, arXiv 2509.23410; MaskLLM, arXiv 2409.17481).

    tile_scale, pattern_scale: κ of the tile and the pattern logits, None where these do not train; temperature:
    τ of both; density_weight: λ₁; norm_weight: λ₂. The papers train for 2000 steps of 128 to 256 x 4096 tokens.
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
        """True when tile logits train."""
        return self.tile_scale is not None

    @property
    def learns_patterns(self) -> bool:
        """True when pattern logits train."""
        return self.pattern_scale is not None

    def temperature_for(self, ratio: float) -> Span:
        """τ starts at no more than 2 below ratio .45, where most tiles stay dense."""
        first = self.temperature.first
        return self.temperature if ratio >= _HIGH_RATIO else Span(min(first, 2.0), self.temperature.last)

    def tile_rate(self, steps: int) -> float:
        """Learning rate of the tile logits: the method's, or more where that moved none across in so few steps.

        Adam with cosine decay moves a logit by at most rate·steps/2, and the prior's two values lie 0.084 apart.
        Pattern logits keep the method's rate: their gradients, of four weights each, are mostly noise in batches of
        thousands of tokens (SmolLM2-135M, 16 steps of 512 tokens at rate .01: 17 % of the patterns changed, and the
        KL to the dense model rose from 1.1 to 1.9), while a tile's sums up thousands of weights.
        """
        return max(self.learning_rate, 2.0 * _TRAVEL / steps)
