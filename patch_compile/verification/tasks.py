"""Runs tasks of lm-evaluation-harness on the dense and on the pruned checkpoint, with the harness's own HFLM."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from traceback import format_exception_only
from typing import Any

from masklearn.base.device import usable_device
from masklearn.model.models import load_model
from masklearn.model.pretrained import load_tokenizer
from patch_compile.artifacts.layout import MODEL
from patch_compile.artifacts.verify_schema import TaskScores
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.task_rows import rows_of

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
