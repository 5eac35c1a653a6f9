"""A speed that is asked for in place of a ratio, and the ratio that it takes where no scores tell the tiles apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.errors import SpeedError

if TYPE_CHECKING:
    from patch_compile.plan.predict import Phase

__all__ = ["SpeedGoal", "ratio_for", "unreachable"]

_STEPS = 500  # ratios tried: thousandths
_COARSE = 10  # of these steps


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


def ratio_for(goal: SpeedGoal, predict: Callable[[float], Phase]) -> float:
    """The least ratio, to a thousandth, at which `predict` meets the goal. SpeedError when none up to 0.5 does."""

    def first(steps: range) -> int | None:
        return next((step for step in steps if goal.met(predict(step / 1000))), None)

    coarse = first(range(0, _STEPS + 1, _COARSE))
    if coarse is None:
        raise unreachable(goal, predict(0.5))
    fine = first(range(max(0, coarse - _COARSE + 1), coarse))
    return (coarse if fine is None else fine) / 1000


def unreachable(goal: SpeedGoal, best: Phase) -> SpeedError:
    """The error for a goal that the best there is, all tiles 2:4, does not meet."""
    return SpeedError(
        f"{goal} is out of reach",
        f"with every tile 2:4 the workload is predicted to take {best.planned:.1f} ms, the dense model {best.dense:.1f}: "
        f"a speed-up of {best.speedup:.2f}; no kernel can pass {best.limit:.2f}",
        "ask for less, or plan for another card or workload",
    )
