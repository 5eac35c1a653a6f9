"""Turns the harness's results of two models into rows of scores, with their differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from patch_compile.artifacts.verify_schema import TaskDifference, TaskRow

Unit = Literal["", "nats"]

_Results = Mapping[str, Any]
_HASHES = ("doc_id", "doc_hash", "prompt_hash", "target_hash")


def rows_of(
    dense: _Results, pruned: _Results, units: Mapping[str, Mapping[str, Unit]]
) -> tuple[TaskRow, ...]:
    """Returns one row for each metric of each task or group.

    Both models got the same items. For a metric that is a mean over items, or perplexity, which is based on the mean of
    their log-likelihoods, the error of the difference is the error of the mean difference per item (a paired comparison). It
    is smaller than the combined error of the two scores, which is used for other metrics. units: units of the paired
    metrics, for each task.
    """
    return tuple(
        TaskRow(
            task=task,
            metric=metric,
            filter=None if key == "none" else key,
            dense=_number(dense["results"][task][f"{metric},{key}"]),
            pruned=_number(pruned["results"][task][f"{metric},{key}"]),
            dense_stderr=_stderr(dense, task, metric, key),
            pruned_stderr=_stderr(pruned, task, metric, key),
            samples=_samples(dense, task),
            difference=_difference(dense, pruned, (task, metric, key), units.get(task, {}).get(metric)),
        )
        for task, metric, key in _metrics(dense)
    )


def _difference(
    dense: _Results, pruned: _Results, place: tuple[str, str, str], unit: Unit | None
) -> TaskDifference | None:
    """Returns the difference of two scores. unit: the unit of a paired metric, None for other metrics."""
    if unit is not None and (found := _paired(dense, pruned, *place)):
        return TaskDifference(value=found[0], error=found[1], per_item=True, unit=unit)
    found = _apart(dense, pruned, *place)
    return TaskDifference(value=found[0], error=found[1], per_item=False) if found else None


def check_same_documents(dense: _Results, pruned: _Results) -> None:
    """Raise RuntimeError unless both models got the same documents in the same order. A difference is a fault of this
    program."""
    for task, items in dense["samples"].items():
        other = pruned["samples"][task]
        asked = [[tuple(item[name] for name in _HASHES) for item in one] for one in (items, other)]
        if asked[0] != asked[1]:
            raise RuntimeError(f"dense and pruned model were not asked the same documents of {task}")


def _metrics(results: _Results) -> Iterator[tuple[str, str, str]]:
    """Yield task, metric and filter of each figure."""
    for task, figures in results["results"].items():
        for name, value in figures.items():
            metric, _, key = name.partition(",")
            if key and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
                yield task, metric, key


def _stderr(results: _Results, task: str, metric: str, key: str) -> float | None:
    return _number(results["results"][task].get(f"{metric}_stderr,{key}"))


def _number(value: Any) -> float | None:
    """Returns a finite number, or None: JSON has no NaN or infinity, and the harness writes N/A for an unknown error."""
    known = isinstance(value, int | float | np.number) and math.isfinite(value)
    return float(value) if known else None


def _samples(results: _Results, task: str) -> int:
    if task in results["n-samples"]:
        return int(results["n-samples"][task]["effective"])
    return sum(_samples(results, one) for one in results["group_subtasks"].get(task, ()))


def _paired(
    dense: _Results, pruned: _Results, task: str, metric: str, key: str
) -> tuple[float, float] | None:
    """Returns the mean difference per item and its standard error; None if items have no numbers of their own."""
    values = [
        [item.get(metric) for item in one["samples"][task] if item["filter"] == key]
        for one in (dense, pruned)
    ]
    if len(values[0]) < 2 or any(not isinstance(v, int | float | np.number) for one in values for v in one):
        return None
    differences = np.subtract(values[1], values[0], dtype=np.float64)
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _apart(dense: _Results, pruned: _Results, task: str, metric: str, key: str) -> tuple[float, float] | None:
    first, second = (_number(one["results"][task][f"{metric},{key}"]) for one in (dense, pruned))
    errors = [_stderr(one, task, metric, key) for one in (dense, pruned)]
    if first is None or second is None or errors[0] is None or errors[1] is None:
        return None
    return second - first, math.hypot(errors[0], errors[1])
