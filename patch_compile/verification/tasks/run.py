"""Runs the same tasks of lm-evaluation-harness on the dense and on the pruned model, quiet and offline.

A comparison must not depend on the present content of a hub.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.verify_schema import TaskScores
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.report.quality import asked_words
from patch_compile.sources.kinds import Capability
from patch_compile.sources.open import source_of
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.tasks.loading import in_task_folder, load_tasks
from patch_compile.verification.tasks.rows import Unit, check_same_documents, rows_of

Update = Callable[[str, int, int], object]
_RESAMPLES = 1000  # bootstrap samples, for metrics whose standard error has no formula
# Module, name of the switch in it, and environment variable that sets the switch if the module is not imported yet.
_SWITCHES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    ("evaluate.config", "HF_EVALUATE_OFFLINE", "HF_EVALUATE_OFFLINE"),
)


def run_tasks(
    out: OutFolder, request: VerifyRequest, progress: Update, note: Callable[[str], object]
) -> TaskScores:
    """Returns the scores of the dense and the pruned model on the same documents.

    request: names the tasks (see `load_tasks`), the backend (`hf` runs the checkpoints in transformers, `onnx` the ONNX
    files in ONNX Runtime), the number of documents of each task and the folder of the user's own tasks. progress: called
    with the current step, but its output to stdout is lost while the harness runs; note: called with remarks for the user.

    One model is in memory at a time, chat templates are not applied, and the network is not used. Raises
    PatchCompileError if the harness is missing, a task does not exist or cannot be run, or its data is not on this
    machine.
    """
    from masklearn.model.pretrained import load_tokenizer

    _check_harness()
    if why := source_of(out).why_not(Capability.NEXT_TOKENS):
        raise PatchCompileError(f"{out.path} can't continue text", why, "Leave out --tasks.")
    limit = request.task_limit
    with quiet_harness(), offline():
        tasks = load_tasks(request.tasks, request.task_folder)
        chat_template = bool(load_tokenizer(Recipe.of_build(out.path).model).chat_template)
        cut = _longer(tasks["tasks"], limit)
    for line in asked_words(chat_template=chat_template, limit=limit, cut=cut):
        note(line)
    with quiet_harness(), offline():
        dense = _ask(out, "dense", tasks, request, progress)
        pruned = _ask(out, "pruned", tasks, request, progress)
    check_same_documents(dense, pruned)
    units = {name: _units(task) for name, task in tasks["tasks"].items()}
    return TaskScores(
        harness=f"lm-eval {importlib.metadata.version('lm_eval')}",
        backend=request.task_backend,
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
    side: Literal["dense", "pruned"],
    tasks: dict[str, Any],
    request: VerifyRequest,
    progress: Update,
) -> dict[str, Any]:
    """Returns the harness's results of one model, which is unloaded before this returns."""
    from lm_eval.evaluator import evaluate

    from patch_compile.verification.tasks.models import open_model

    seed, limit = Recipe.of_build(out.path).seed, request.task_limit

    def update(what: str, done: int, total: int) -> None:
        progress(f"{side}: {what}", done, total)

    progress(f"{side}: loading", 0, 1)
    with open_model(out, side, request.task_backend, seed, update) as model:
        _seed(tasks["tasks"], seed)
        with in_task_folder(request.task_folder):
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


@contextmanager
def offline() -> Iterator[None]:
    """Block the network: libraries of hubs use only their caches, and host names cannot be looked up.

    Tasks contain code, and some of them download files without the hub's libraries. They get an OSError.
    """
    with ExitStack() as undo:
        for module, name, variable in _SWITCHES:
            undo.enter_context(_set_in(os.environ, variable, "1"))
            if module in sys.modules:
                undo.enter_context(_set_in(vars(sys.modules[module]), name, True))
        undo.enter_context(_set_in(vars(socket), "getaddrinfo", _refuse))
        yield


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Suppress progress bars, warnings about a task's settings, and output to stdout, where the result is printed."""
    from tqdm import tqdm

    with ExitStack() as undo:
        for name in ("lm_eval", "datasets", "evaluate"):
            undo.enter_context(_level(logging.getLogger(name)))
        begin = tqdm.__init__
        undo.callback(setattr, tqdm, "__init__", begin)
        undo.enter_context(redirect_stdout(io.StringIO()))
        # A process pool for the bootstrap would be forked from a process with threads of ONNX Runtime.
        undo.enter_context(_set_in(os.environ, "DISABLE_MULTIPROC", "1"))
        tqdm.__init__ = lambda bar, *given, **how: begin(bar, *given, **how | {"disable": True})
        yield


@contextmanager
def _level(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _set_in(names: Any, name: str, value: Any) -> Iterator[None]:
    """Set a value in a mapping, and restore the previous state at the end."""
    there, before = name in names, names.get(name)
    names[name] = value
    try:
        yield
    finally:
        if there:
            names[name] = before
        else:
            del names[name]


def _refuse(host: Any, *_: Any, **__: Any) -> Any:
    raise OSError(f"{host} is not looked up: tasks are read only from this machine")
