"""Stands in for python3 when half_hour.sh plays its steps without a GPU.

The programs are real, and so are the processes that they start, the rows' keys and the tables. PyTorch, the library of the
kernels and all measurements are stand-ins: figures of a row mean nothing.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from kernels import Config, Device, Problem

from masklearn.quant.table import FLOAT16, QUANTISED
from patch_compile.hardware.cards import RatedCard, card_named
from patch_compile.planning.roofline import schedule
from patch_compile.planning.roofline.choice import choose_schedule, limits_of, turns_of

_WEIGHTS = (FLOAT16, *QUANTISED.values())
_SHARES = dict.fromkeys(map(str, (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)), 1e-6)
# What the tables of all stages show.
FIGURES = {
    "seconds": 1e-6, "slabs": [1, 1], "panels": 1, "beyond": False, "chosen": True, "block_tokens": 16,
    "cublas": 1e-6, "cusparselt": None, "hybrid": _SHARES, "schedule": dict.fromkeys(_SHARES, ("one", 1)), "limit": _SHARES,
    "faults": [], "worst": 0.5, "useless": False,
    "copies": 1.0, "reads": 1.0, "flops": 1.0, "sms": 1, "l2": 1,
}  # fmt: skip


class PlannedKernels:
    """`Kernels` without the library: its choices by the planner's copy of them."""

    def __init__(self, card: RatedCard) -> None:
        self._limits = limits_of(card)

    def configs(self) -> list[Config]:
        return [
            Config(c.name, c.panel_rows, c.shared_bytes, c.tokens, c.kinds, _WEIGHTS.index(c.weights))
            for c in schedule.CONFIGS
        ]

    def device(self) -> Device:
        """The card as the plugin sees it."""
        limits = self._limits
        dense = turns_of(limits.sm, geforce=limits.geforce).dense_fma
        sizes = limits.sms, limits.shared_bytes, limits.l2_bytes, limits.dram
        return Device(*sizes, limits.sm, limits.geforce, dense)

    def max_parts(self, problem: Problem, device: Device, config: int) -> int:
        return schedule.max_parts(_planned(problem), schedule.CONFIGS[config], device.sms)

    def schedule(self, problem: Problem, _: Device, config: int = -1) -> tuple[int, int]:
        return choose_schedule(_planned(problem), self._limits, None if config < 0 else config)


def _planned(problem: Problem) -> schedule.Problem:
    sizes = problem.tokens, problem.out_features, problem.in_features, problem.panel_rows
    return schedule.Problem(*sizes, tuple(problem.slabs.of), _WEIGHTS[problem.weights], bool(problem.gated))


class Anything:
    """Stands in for the names that the benchmark imports from PyTorch, whose import takes seconds."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_: object, **__: object) -> Any:
        return lambda decorated: decorated


class AnyModule(ModuleType, Anything):
    """A module of the stand-in."""

    __path__ = ()  # it is a package


TORCH: Any = AnyModule("torch")
TORCH.__version__, TORCH.version = "stand-in", SimpleNamespace(cuda=None)
TORCH.cuda = SimpleNamespace(
    is_available=lambda: True,
    get_device_properties=lambda _: SimpleNamespace(name="stand-in", major=9, minor=0),
)


def without_torch(program: str) -> Any:
    """Import a program of this folder with a stand-in for PyTorch; returns the module."""
    names = ("torch.nn", "torch.nn.functional")
    sys.modules |= {"torch": TORCH} | {name: AnyModule(name) for name in names}
    return importlib.import_module(program)


def _without_gpu(run: Any) -> None:
    """Let run.py take the kernels from the planner's copy of their table, and measure nothing."""
    gpu, rows_of = importlib.import_module("gpu"), run._rows_of
    run.Kernels, run.usable = (lambda _: PlannedKernels(card_named("H100"))), (lambda: True)
    run._rows_of = lambda *arguments: ((key, lambda: FIGURES) for key, _ in rows_of(*arguments))
    run.check_row = lambda *_: FIGURES
    gpu.MeasuredGpu.measure = classmethod(lambda cls: cls(1.0, 1.0, 1.0, 1, 1))


def main(argv: Sequence[str]) -> int:
    """Run a program as `python3 FILE ARGUMENT...` would; returns its exit code."""
    program = Path(argv[0]).stem
    sys.executable = shutil.which("python3") or sys.executable  # the programs start each other by it
    if program == "-c":
        return 0
    module = without_torch(program)
    if program == "run":
        _without_gpu(module)
        module.stop_when_asked()
    if program == "launch_once":
        module.main = lambda given: print(f"would launch {vars(module._arguments(given))}")
    if program == "plugin_on_gpu":
        module.PluginDriver = lambda _: SimpleNamespace(cuda=Anything)
        module.drive = lambda _, asked, *__: ((f"{asked.name}: {step}", 0.5) for step in module._STEPS)
    return int(module.main(argv[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
