"""Prints plans with different types of weights side by side."""

from __future__ import annotations

from collections.abc import Iterator

from patch_compile.artifacts.plan import PhaseRow
from patch_compile.artifacts.plan_of_model import OtherTypes, PlanOfModel
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part

__all__ = ["type_parts"]

_ABOVE = {0: "GB", 2: "ms", 4: "decode", 7: "in all"}
_HEADERS = ("linears", "model", "prefill", "decode", *("dense", "same", "limit") * 2)
_JOINED = (1, 3, 5, 6, 8, 9)
_MARK = " *"


def type_parts(result: PlanOfModel) -> Iterator[Part]:
    """Yield a row for each type, and what the columns mean. Types that do not fit are named below."""
    shown = [row for row in result.types if row.whole is not None]
    if len(shown) < 2 or not any(_fits(row, result) for row in shown):
        return
    ratios = len({f"{row.ratio:.3f}" for row in shown}) > 1
    table = FoldingTable(padding=0)
    table.add_column("\nweights")
    if ratios:
        table.add_number("\nratio")
    for i, header in enumerate(_HEADERS):
        table.add_number(f"{_ABOVE.get(i, '')}\n{header}", joined=i in _JOINED)
    for row in shown:
        name = row.weights + _MARK * row.planned
        table.add_row(name, *([f"{row.ratio:.3f}"] if ratios else []), *_figures(row, result))
    yield table
    yield (
        "* this plan; types of weights for the same request: speed-up over dense 16-bit weights (dense) and over dense "
        "weights of the same type (same), and the limit of the first; decode: all steps; in all: prompts and steps"
    )
    yield from _left_out(result)


def _figures(row: OtherTypes, result: PlanOfModel) -> Iterator[str]:
    assert row.whole is not None
    yield from (f"{size / 1e9:.2f}" for size in (row.linears_bytes, row.model_bytes))
    if not _fits(row, result):
        yield from ("–",) * 8
        return
    yield from (f"{phase.planned_ms:.1f}" for phase in (row.whole.prefill, row.whole.decode))
    yield from (*_speeds(row.whole.decode), *_speeds(row.whole.end_to_end))


def _speeds(phase: PhaseRow) -> tuple[str, str, str]:
    return f"{phase.speedup:.2f}", f"{phase.over_alike:.2f}", f"{phase.limit:.2f}"


def _fits(row: OtherTypes, result: PlanOfModel) -> bool:
    return row.model_bytes + result.memory.cache <= result.memory.card


def _left_out(result: PlanOfModel) -> Iterator[str]:
    goal = SpeedGoal(result.asked.speedup, result.asked.budget_ms)
    for row in result.types:
        if row.unfit is not None:
            yield f"weights of {row.weights} are left out: K of {row.unfit} is no multiple of what shares a scale"
        elif row.whole is None:
            yield f"weights of {row.weights} are left out: with them {goal} is out of reach"
        elif not _fits(row, result):
            yield f"with weights of {row.weights} the model does not fit on {result.card and result.card.name}"
