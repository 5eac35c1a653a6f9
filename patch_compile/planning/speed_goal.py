"""A speed that a user asks for in place of a ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from patch_compile.artifacts.prediction import PhaseRow
from patch_compile.errors import SpeedError

_ROUNDING = 1e-12  # relative rounding error of a predicted time


@dataclass(frozen=True)
class SpeedGoal:
    """Either dense over planned time of the whole workload, or its milliseconds."""

    speedup: float | None = None
    budget_ms: float | None = None

    @classmethod
    def parse(cls, spec: float | str) -> SpeedGoal:
        """Read 1.3 or 25ms. Raises ValueError for anything else."""
        text = str(spec).strip()
        number, in_ms = text.removesuffix("ms"), text.endswith("ms")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not (0.0 if in_ms else 1.0) < amount < math.inf:
            raise ValueError("It is a factor above 1, such as 1.3, or milliseconds, such as 25ms.")
        return cls(budget_ms=amount) if in_ms else cls(speedup=amount)

    @property
    def short(self) -> str:
        return f"{self.budget_ms:g}ms" if self.budget_ms is not None else f"{self.speedup:g}x"

    def milliseconds(self, dense: float) -> float:
        """Returns the milliseconds that the workload may take. dense: milliseconds of the dense model."""
        return self.budget_ms if self.budget_ms is not None else dense / (self.speedup or 1.0)

    def met(self, times: PhaseRow) -> bool:
        return times.planned_ms <= self.milliseconds(times.dense_ms)

    def compared(self, times: PhaseRow) -> dict[str, Any]:
        """Returns the fields of `ChoiceRecord` that say what was asked for and reached."""
        if self.budget_ms is not None:
            return {"unit": "budget_ms", "asked": self.budget_ms, "reached": times.planned_ms}
        return {"unit": "speedup", "asked": self.speedup, "reached": times.speedup}

    def lowered(self, best: PhaseRow) -> str:
        """Returns the setting of a goal that `best` just meets, "" if it is no faster than the dense model."""
        if self.budget_ms is not None:
            digit = 10.0 ** math.floor(math.log10(best.planned_ms) - 2)  # the third
            return f"`speedup` {digit * math.ceil(best.planned_ms * (1 + _ROUNDING) / digit):g}ms or more"
        reached = math.floor(100 * best.speedup * (1 - _ROUNDING)) / 100
        return f"`speedup` {reached:.2f} or less" if reached > 1.0 else ""

    def __str__(self) -> str:
        return f"{self.budget_ms:g} ms" if self.budget_ms is not None else f"a speed-up of {self.speedup:g}"


def unreachable(goal: SpeedGoal, best: PhaseRow) -> SpeedError:
    """Returns the error for a goal that even all pruned tiles do not meet, with a goal that they meet."""
    # A plan that leaves all linears dense has no limit but itself.
    passes = f" No kernel can pass {best.limit:.2f}." if best.limit > best.speedup else ""
    lowered = goal.lowered(best)
    return SpeedError(
        f"The goal of {goal} is out of reach",
        f"With all tiles pruned that save time, the workload is predicted to take {best.planned_ms:.1f} ms, and "
        f"{best.dense_ms:.1f} ms with the dense model: a speed-up of {best.speedup:.3f}.{passes}",
        f"{f'Give {lowered}, plan' if lowered else 'Plan'} for another card or workload, or leave out `weights`, `kinds` "
        "and `tile` if you gave them.",
        fastest=best.planned_ms,
    )
