"""Runs tasks of lm-evaluation-harness on the dense and on the pruned checkpoint, with the harness's own HFLM."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from traceback import format_exception_only
from typing import Any, Literal

import numpy as np

from masklearn.base.device import usable_device
from masklearn.model.models import load_model
from masklearn.model.pretrained import load_tokenizer
from patch_compile.artifacts.layout import MODEL
from patch_compile.artifacts.verify import TaskDifference, TaskRow, TaskScores
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.verification.request import VerifyRequest

Unit = Literal["", "nats"]
_Results = Mapping[str, Any]
_ROWS_ON_A_CPU = 4  # texts in a batch; on a GPU the harness tries how many fit
_RESAMPLES = 1000  # bootstrap samples, for metrics whose standard error has no formula


def run_tasks(out: Path, recipe: Recipe, request: VerifyRequest) -> TaskScores:
    """Returns the scores of the dense and of the pruned model on the same documents, without a chat template.

    One model is in memory at a time. Raises PatchCompileError if the harness is missing, and for tasks that it cannot load
    or run.
    """
    if find_spec("lm_eval") is None:
        raise PatchCompileError(
            "Tasks are run by lm-evaluation-harness, which is not installed",
            "The Python package lm_eval is missing.",
            "Install it: `pip install 'patch-compile[tasks]'`.",
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that is loaded already
    tasks = _load(request.tasks, request.task_folder, recipe.seed)
    dense, pruned = (_ask(folder, tasks, recipe, request) for folder in (recipe.model, out / MODEL))
    counts = dense["n-samples"].items()
    return TaskScores(
        harness=f"lm-eval {importlib.metadata.version('lm_eval')}",
        rows=rows_of(dense, pruned),
        chat_template=bool(load_tokenizer(recipe.model).chat_template),
        limit=request.task_limit,
        cut=tuple(task for task, count in counts if count["effective"] < count["original"]),
    )


def _load(names: Sequence[str], folder: Path | None, seed: int) -> dict[str, Any]:
    """Returns the tasks, groups and tags of these names, which may have wildcards. folder: has the user's own tasks."""
    from lm_eval.tasks import TaskManager

    own = folder and folder.resolve()
    with _harness(names, folder):
        manager = TaskManager(include_path=own)
        matches = [match for name in names for match in manager.match_tasks([name]) or [name]]
        loaded: dict[str, Any] = manager.load([*dict.fromkeys(matches)])
    for task in loaded["tasks"].values():  # as `simple_evaluate` does
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return loaded


def _ask(model: Path, tasks: dict[str, Any], recipe: Recipe, request: VerifyRequest) -> dict[str, Any]:
    """Returns the harness's results of a model, whose weights are rounded to the type of the build.

    A CPU computes with them in fp32, because 16-bit types are slow or inexact there.
    """
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import set_seed

    device = usable_device(request.device)
    on_cpu = device.type == "cpu"
    loaded = load_model(model, dtype=getattr(torch, recipe.dtype))
    loaded = (loaded.float() if on_cpu else loaded).to(device)
    tokenizer, rows = load_tokenizer(model), _ROWS_ON_A_CPU if on_cpu else "auto"
    set_seed(recipe.seed)
    with _harness(request.tasks, request.task_folder):
        lm = HFLM(loaded, tokenizer=tokenizer, batch_size=rows)
        results: dict[str, Any] = evaluate(lm, tasks, limit=request.task_limit, bootstrap_iters=_RESAMPLES)
    return results


@contextmanager
def _harness(names: Sequence[str], folder: Path | None) -> Iterator[None]:
    """Run code of the harness and of tasks, with stdout sent to stderr, in the folder of the user's tasks.

    A metric may load a script of its name from the current folder, which may be a stranger's.
    """
    try:
        with chdir(folder or Path(__file__).parent), redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # a task is YAML and code of others, which may raise anything
        raise PatchCompileError(
            f"lm-evaluation-harness cannot run {', '.join(names)}",
            " ".join("".join(format_exception_only(error)).split()),
            "`lm-eval ls tasks` lists its tasks; --task-folder names the folder of your own, and of their data.",
        ) from error


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
    return sum(_samples(results, subtask) for subtask in results["group_subtasks"].get(task, ()))


def _paired(dense: _Results, pruned: _Results, task: str, metric: str, key: str) -> TaskDifference | None:
    """Returns the mean difference per item; None if items have no numbers of their own, or these do not give the score."""
    values = [
        [item.get(metric) for item in results["samples"].get(task, ()) if item["filter"] == key]
        for results in (dense, pruned)
    ]
    items = [value for of_model in values for value in of_model]
    if len(values[0]) < 2 or not all(isinstance(value, int | float | np.number) for value in items):
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
    first, second = (_number(results["results"][task][f"{metric},{key}"]) for results in (dense, pruned))
    errors = [_stderr(results, task, metric, key) for results in (dense, pruned)]
    if first is None or second is None or errors[0] is None or errors[1] is None:
        return None
    return TaskDifference(value=second - first, error=math.hypot(errors[0], errors[1]), per_item=False)
