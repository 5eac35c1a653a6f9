"""The settings of a training run: its budget, learning rate, precision and optimizer."""

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """steps, minutes: the budget, whichever ends first, one of them given; batch: windows of a step in every
    process; decay: of the learning rate, to 0 at the end of the budget; warmup: steps over which it rises first;
    clip: bound of the gradient's norm, None for none; precision: of linears, see `computes_in_bf16`; device: None
    for a CUDA device when there is one.
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

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a budget in steps or in minutes is needed")

    def factor(self, step: int, used: float) -> float:
        """What the learning rate is multiplied by in a step before which `used` of the budget is spent."""
        decay = 1.0 - used if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * used))
        return decay * min(1.0, (step + 1) / (self.warmup + 1))
