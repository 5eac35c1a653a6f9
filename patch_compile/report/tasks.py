"""Puts the scores of tasks into words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from patch_compile.artifacts.tasks import TaskRow, TaskScores

__all__ = ["asked_words", "metric_words", "task_notes"]


def task_notes(tasks: TaskScores) -> list[str]:
    """Returns remarks that a reader of the scores needs, with a remark for each pair that is less than two standard
    errors apart."""
    asked = asked_words(chat_template=tasks.chat_template, limit=tasks.limit, cut=tasks.cut)
    return [*asked, *filter(None, map(_difference_words, tasks.rows))]


def asked_words(*, chat_template: bool, limit: int | None, cut: Sequence[str]) -> Iterator[str]:
    """Yield remarks on the way in which the tasks were asked. The arguments are fields of `TaskScores`."""
    if chat_template:
        yield "tasks: asked as plain text; the model has a chat template, which is not applied"
    if cut:
        yield f"tasks: the first {limit} documents of {', '.join(cut)}, not all"


def metric_words(row: TaskRow) -> str:
    """Returns the name of a metric, with the filter of its answers."""
    return row.metric if row.filter is None else f"{row.metric} ({row.filter})"


def _difference_words(row: TaskRow) -> str:
    """Returns a remark on two scores that can hardly be distinguished, or an empty string."""
    found = row.difference
    if found is None:
        return ""
    name, items = f"{row.task}, {metric_words(row)}", f"at {row.samples} items"
    if found.value == found.error == 0:
        return f"{name}: dense and pruned model are the same on every one of {row.samples} items"
    unit = f" {found.unit}" if found.unit else ""
    by = f"{abs(found.value):.3g}{unit}{' per item' if found.per_item else ''}"
    size = f"{name}: dense and pruned model differ by {by}"
    if abs(found.value) <= found.error:
        return f"{size}, within the standard error of {found.error:.3g}: not distinguishable {items}"
    if abs(found.value) < 2 * found.error:
        errors = abs(found.value) / found.error
        return f"{size}, {errors:.1f} standard errors: hardly distinguishable {items}"
    return ""
