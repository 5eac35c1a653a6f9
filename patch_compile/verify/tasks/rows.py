"""Turns the harness's results of two models into rows of verify.json, and into notes about their significance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["check_same_documents", "distinguished", "rows_of"]

_Results = Mapping[str, Any]
_HASHES = ("doc_id", "doc_hash", "prompt_hash", "target_hash")


def rows_of(dense: _Results, pruned: _Results) -> list[dict[str, Any]]:
    """Returns one row for each metric of each task or group, with None for unknown standard errors."""
    return [
        {
            "task": task,
            "metric": metric if key == "none" else f"{metric} ({key})",
            "dense": _number(dense["results"][task][f"{metric},{key}"]),
            "pruned": _number(pruned["results"][task][f"{metric},{key}"]),
            "dense_stderr": _stderr(dense, task, metric, key),
            "pruned_stderr": _stderr(pruned, task, metric, key),
            "samples": _samples(dense, task),
        }
        for task, metric, key in _metrics(dense)
    ]


def distinguished(dense: _Results, pruned: _Results, units: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns a note for each row whose two figures are less than two standard errors apart.

    Both models got the same items. For a metric that is a mean over items, or perplexity, which is based on the mean of
    their log-likelihoods, the error is that of the mean difference per item (a paired comparison). It is smaller than the
    combined error of the two rows, which is used for other metrics. units: units of the paired metrics, for each task.
    """
    notes = []
    for task, metric, key in _metrics(dense):
        unit = units.get(task, {}).get(metric)
        paired = None if unit is None else _paired(dense, pruned, task, metric, key)
        difference, error = paired or _apart(dense, pruned, task, metric, key)
        name = f"{task}, {metric}" if key == "none" else f"{task}, {metric} ({key})"
        size = f"{abs(difference):.3g}{unit or ''}{' per item' if paired else ''}"
        words = _words(size, difference, error, _samples(dense, task))
        if words:
            notes.append(f"{name}: {words}")
    return notes


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


def _apart(dense: _Results, pruned: _Results, task: str, metric: str, key: str) -> tuple[float, float | None]:
    first, second = (_number(one["results"][task][f"{metric},{key}"]) for one in (dense, pruned))
    errors = [_stderr(one, task, metric, key) for one in (dense, pruned)]
    if first is None or second is None or errors[0] is None or errors[1] is None:
        return math.nan, None
    return second - first, math.hypot(errors[0], errors[1])


def _words(size: str, difference: float, error: float | None, items: int) -> str:
    if error is None:
        return ""
    if difference == error == 0:
        return f"dense and pruned model are the same on every one of {items} items"
    size = f"dense and pruned model differ by {size}"
    if abs(difference) <= error:
        return f"{size}, within the standard error of {error:.3g}: not distinguishable at {items} items"
    if abs(difference) < 2 * error:
        return (
            f"{size}, {abs(difference) / error:.1f} standard errors: hardly distinguishable at {items} items"
        )
    return ""
