"""Runs the same tasks of lm-evaluation-harness on the dense and on the pruned model."""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.tasks import TaskScores
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.report.tasks import asked_words
from patch_compile.verification.generated import check_continues_text
from patch_compile.verification.tasks.loading import in_task_folder, load_tasks
from patch_compile.verification.tasks.models import Backend, Side, open_model
from patch_compile.verification.tasks.offline import offline, quiet_harness
from patch_compile.verification.tasks.rows import Unit, check_same_documents, rows_of

__all__ = ["run_tasks"]

Update = Callable[[str, int, int], object]
_RESAMPLES = 1000  # bootstrap samples, for metrics whose standard error has no formula


def run_tasks(
    out: OutFolder,
    names: Sequence[str],
    *,
    backend: Backend,
    limit: int | None,
    include: Path | None,
    progress: Update,
    note: Callable[[str], object],
) -> TaskScores:
    """Returns the scores of the dense and the pruned model on the same documents.

    names: see `load_tasks`; backend: `hf` runs the checkpoints in transformers, `onnx` the ONNX files in ONNX Runtime;
    limit: number of documents of each task, from its beginning, None for all; include: a folder of the user's own tasks;
    progress: called with the current step, but its output to stdout is lost while the harness runs; note: called with
    remarks for the user.

    One model is in memory at a time, chat templates are not applied, and the network is not used. Raises
    PatchCompileError if the harness is missing, a task does not exist or cannot be run, or its data is not on this
    machine.
    """
    from masklearn.model.pretrained import load_tokenizer

    _check_harness()
    check_continues_text(out)
    with quiet_harness(), offline():
        tasks = load_tasks(names, include)
        chat_template = bool(load_tokenizer(Recipe.of_build(out.path).model).chat_template)
        cut = _longer(tasks["tasks"], limit)
    for line in asked_words(chat_template=chat_template, limit=limit, cut=cut):
        note(line)
    with quiet_harness(), offline():
        dense = _ask(out, "dense", tasks, backend, limit, include, progress)
        pruned = _ask(out, "pruned", tasks, backend, limit, include, progress)
    check_same_documents(dense, pruned)
    units = {name: _units(task) for name, task in tasks["tasks"].items()}
    return TaskScores(
        harness=f"lm-eval {importlib.metadata.version('lm_eval')}",
        backend=backend,
        rows=rows_of(dense, pruned, units),
        chat_template=chat_template,
        limit=limit,
        cut=cut,
    )


def _check_harness() -> None:
    if find_spec("lm_eval") is None:
        raise PatchCompileError(
            "Tasks are run by lm-evaluation-harness, which is not installed",
            "The Python package lm_eval is missing.",
            "Install it: `pip install 'patch-compile[tasks]'`.",
        )


def _longer(tasks: Mapping[str, Any], limit: int | None) -> tuple[str, ...]:
    """Returns the names of the tasks that have more documents than `limit`."""
    return tuple(name for name, task in tasks.items() if limit is not None and len(task.eval_docs) > limit)


def _ask(
    out: OutFolder,
    side: Side,
    tasks: dict[str, Any],
    backend: Backend,
    limit: int | None,
    include: Path | None,
    progress: Update,
) -> dict[str, Any]:
    """Returns the harness's results of one model, which is unloaded before this returns."""
    from lm_eval.evaluator import evaluate

    seed = Recipe.of_build(out.path).seed

    def update(what: str, done: int, total: int) -> None:
        progress(f"{side}: {what}", done, total)

    progress(f"{side}: loading", 0, 1)
    with open_model(out, side, backend, seed, update) as model:
        _seed(tasks["tasks"], seed)
        with in_task_folder(include):
            found: dict[str, Any] = evaluate(model, tasks, limit=limit, bootstrap_iters=_RESAMPLES)
    return found


def _seed(tasks: Mapping[str, Any], seed: int) -> None:
    """Seed all random generators of the harness and the models, so that both models draw alike."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)


def _units(task: Any) -> dict[str, Unit]:
    """Returns the unit of the items of each metric that is computed from a mean over items."""
    from lm_eval.api.metrics import mean, perplexity

    units: dict[Any, Unit] = {mean: "", perplexity: "nats"}
    return {name: units[how] for name, how in task.aggregation().items() if how in units}
