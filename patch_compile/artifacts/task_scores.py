"""Scores of the dense and the pruned model on tasks, as report.json and verify.json hold them."""

from __future__ import annotations

from typing import Annotated, Literal

from patch_compile.artifacts.record import Record, Unit, shown


class TaskDifference(Record):
    """Difference of the pruned model's score from the dense model's, with its standard error.

    per_item: True for the mean difference per item (a paired comparison), in `unit`; else the difference of the two
    scores, with the combined error of both.
    """

    value: float
    error: float
    per_item: bool
    unit: Literal["", "nats"] = ""


class TaskRow(Record):
    """Scores of one metric of a task or group, None if not finite. Standard errors are None if unknown.

    filter: the harness's filter of answers, None for none; samples: number of items; difference: None without an error.
    """

    task: Annotated[str, shown("task", Unit.WORDS)]
    metric: str
    filter: str | None
    dense: float | None
    pruned: float | None
    dense_stderr: float | None
    pruned_stderr: float | None
    samples: Annotated[int, shown("samples", Unit.COUNT)]
    difference: TaskDifference | None


class TaskScores(Record):
    """Scores of all tasks.

    harness: name and version of the harness, or of patch-compile for the task that a build runs itself; backend: `hf` for
    transformers, `onnx` for ONNX Runtime; chat_template: True if the model has a chat template, which is not applied;
    limit: number of items of each task, None for all; cut: tasks that have more items than that.
    """

    harness: str
    backend: Literal["hf", "onnx"]
    rows: tuple[TaskRow, ...]
    chat_template: bool
    limit: int | None = None
    cut: tuple[str, ...] = ()
