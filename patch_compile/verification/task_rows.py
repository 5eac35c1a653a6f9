"""Turns the harness's results of two models into rows of scores, with their differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from patch_compile.artifacts.verify_schema import TaskDifference, TaskRow

Unit = Literal["", "nats"]

_Results = Mapping[str, Any]


def rows_of(dense: _Results, pruned: _Results) -> tuple[TaskRow, ...]:
    """Returns one row for each metric of each task or group.

    Both models got the same items. For a metric that is a mean over items, or perplexity, which is based on the mean of
    their log-likelihoods, the error of the difference is the error of the mean difference per item (a paired comparison). It
    is smaller than the combined error of the two scores, which is used for other metrics.
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
            difference=_paired(dense, pruned, task, metric, key) or _apart(dense, pruned, task, metric, key),
        )
        for task, metric, key in _metrics(dense)
    )


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


def _paired(dense: _Results, pruned: _Results, task: str, metric: str, key: str) -> TaskDifference | None:
    """Returns the mean difference per item; None if items have no numbers of their own, or these do not give the score."""
    values = [
        [item.get(metric) for item in one["samples"].get(task, ()) if item["filter"] == key]
        for one in (dense, pruned)
    ]
    if len(values[0]) < 2 or any(not isinstance(v, int | float | np.number) for one in values for v in one):
        return None
    unit = _unit(float(np.mean(values[0])), dense["results"][task][f"{metric},{key}"])
    if unit is None:
        return None
    differences = np.subtract(values[1], values[0], dtype=np.float64)
    error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    return TaskDifference(value=float(differences.mean()), error=error, per_item=True, unit=unit)


def _unit(mean: float, score: float) -> Unit | None:
    """Returns the unit of items whose mean is the score, or whose mean log-likelihood gives it as a perplexity."""
    if math.isclose(mean, score):
        return ""
    return "nats" if math.isclose(-mean, math.log(score) if score > 0 else math.nan) else None


def _apart(dense: _Results, pruned: _Results, task: str, metric: str, key: str) -> TaskDifference | None:
    """Returns the difference of the two scores with the combined error of both; None if one is not known."""
    first, second = (_number(one["results"][task][f"{metric},{key}"]) for one in (dense, pruned))
    errors = [_stderr(one, task, metric, key) for one in (dense, pruned)]
    if first is None or second is None or errors[0] is None or errors[1] is None:
        return None
    return TaskDifference(value=second - first, error=math.hypot(errors[0], errors[1]), per_item=False)
