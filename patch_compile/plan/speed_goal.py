"""A speed that is asked for, in place of a ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patch_compile.plan.predict import Phase

__all__ = ["SpeedGoal"]


@dataclass(frozen=True)
class SpeedGoal:
    """One of the two: dense over planned time of the whole workload, or its milliseconds."""

    speedup: float | None = None
    budget_ms: float | None = None

    @property
    def short(self) -> str:
        """For the name of a folder."""
        return f"{self.budget_ms:g}ms" if self.budget_ms is not None else f"{self.speedup:g}x"

    def milliseconds(self, dense: float) -> float:
        """What the workload may take, from what the dense model takes."""
        return self.budget_ms if self.budget_ms is not None else dense / (self.speedup or 1.0)

    def met(self, found: Phase) -> bool:
        """True when the planned model is as fast as asked."""
        return found.planned <= self.milliseconds(found.dense)

    def __str__(self) -> str:
        return f"{self.budget_ms:g} ms" if self.budget_ms is not None else f"a speed-up of {self.speedup:g}"
