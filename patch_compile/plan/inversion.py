"""From a speed that is asked for to the ratio that it takes, where no scores tell the tiles apart."""

from __future__ import annotations

from collections.abc import Callable

from patch_compile.errors import SpeedError
from patch_compile.plan.predict import Phase
from patch_compile.plan.speed_goal import SpeedGoal

__all__ = ["ratio_for", "unreachable"]

_STEPS = 500  # ratios tried: thousandths
_COARSE = 10  # of these steps


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
