"""Settings of a training run: its budget, learning rate, precision and optimizer."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from masklearn.recipe import LearnRecipe

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Settings of a training run.

    steps, minutes: the budget; at least one is given, and the first to end ends the run; batch: windows per step in each
    process; decay: curve of the learning rate, which is 0 at the end of the budget; warmup: number of steps in which the
    learning rate rises; betas: of AdamW; checkpoint_every: steps between checkpoints; clip: upper bound of the
    gradient's norm, None for no bound; precision: of linears, see `computes_in_bf16`; device: None for CUDA if there
    is one, else the CPU. Raises ValueError without a budget.
    """

    steps: int | None
    minutes: float | None
    batch: int
    learning_rate: float
    decay: Literal["linear", "cosine"]
    warmup: int
    betas: tuple[float, float]
    checkpoint_every: int
    seed: int
    clip: float | None = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    device: str | None = None

    @classmethod
    def of(cls, recipe: LearnRecipe, **settings: Any) -> "Schedule":
        """Returns a schedule with the recipe's batch, seed, precision, device and checkpoints; settings: all others."""
        return cls(
            batch=recipe.batch,
            checkpoint_every=recipe.checkpoint_every,
            seed=recipe.seed,
            precision=recipe.precision,
            device=recipe.device,
            **settings,
        )

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a budget in steps or in minutes is needed")

    def factor(self, step: int, used: float) -> float:
        """Returns the factor of the learning rate in a step, when the share `used` (0 ... 1) of the budget is spent."""
        decay = 1.0 - used if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * used))
        return decay * min(1.0, (step + 1) / (self.warmup + 1))
