"""Runs cases beside each other, each command in a fork of this process."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.attacks.hostile.case import Case, Sound
from tests.attacks.hostile.sandbox import Running, Verdict, start

__all__ = ["prepare", "run_cases"]

_IMPORTED_FIRST = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "torch.onnx._internal.exporter._core", "onnx",
    "onnx_ir",
    "onnxscript", "onnxruntime", "pyarrow.parquet", "datasets", "accelerate", "scipy.linalg", "tokenizers", "numba",
)  # fmt: skip


def prepare() -> None:
    """Import what commands import, so that no fork does it again."""
    os.environ.update(
        {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
    )
    for name in [
        one for one in os.environ if one.startswith("PATCH_COMPILE_") or one in ("COLUMNS", "FORCE_COLOR")
    ]:
        del os.environ[name]
    for name in _IMPORTED_FIRST:
        importlib.import_module(name)
    for package in ("masklearn", "patch_compile"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    gc.freeze()  # no fork copies the memory of these modules to count what refers to it


def run_cases(cases: Sequence[Case], sound: Sound, jobs: int = 2) -> Iterator[Verdict]:
    """Yield the verdict of every command of every case, in the order in which they end."""
    waiting = [(case, command) for case in cases for command in case.commands][::-1]
    running: list[Running] = []
    root = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                case, command = waiting.pop()
                running.append(start(case, command, sound, root / f"{len(waiting)}"))
            ended = [(one, verdict) for one in running if (verdict := one.poll())]
            for one, verdict in ended:
                running.remove(one)
                yield verdict
            if not ended:
                time.sleep(0.01)
    finally:
        shutil.rmtree(root, ignore_errors=True)
