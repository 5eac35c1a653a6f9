"""Places that models are timed on: this machine's GPU for engines, its CPU for ONNX files in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patch_compile.artifacts.bench import Library, TimedOn
from patch_compile.artifacts.folder import OutFolder
from patch_compile.engine.backend import load_backend
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import local_gpu
from patch_compile.hardware.nvml import Nvml, open_nvml
from patch_compile.planning.cards import PlanCard, card_of_gpu
from patch_compile.progress import Progress
from patch_compile.runtime import Runner
from patch_compile.timing.engine_runner import open_engine_runner
from patch_compile.timing.engines import engine_report
from patch_compile.timing.machine import about_cpu, about_gpu
from patch_compile.timing.onnx_runner import OnnxRunner
from patch_compile.timing.own_process import OwnProcess

__all__ = ["CpuDevice", "GpuPlace", "find_place"]


@dataclass(frozen=True)
class CpuDevice:
    """Times ONNX files in ONNX Runtime on the CPU."""

    device: TimedOn
    library: Library = Library.ONNX_RUNTIME
    runner: Runner = Runner.ONNX
    card: PlanCard | None = None
    nvml: Nvml | None = None

    def open(self, model: str, file: Path) -> OwnProcess:
        """Load a model in a process of its own."""
        return OwnProcess(model, partial(OnnxRunner, file))


@dataclass(frozen=True)
class GpuPlace:
    """Times engines on this machine's GPU, with the library that built them."""

    device: TimedOn
    library: Library
    card: PlanCard | None
    nvml: Nvml | None
    trust: bool = False
    runner: Runner = Runner.ENGINE

    def open(self, model: str, file: Path) -> OwnProcess:
        """Load a model in a process of its own."""
        return OwnProcess(model, partial(open_engine_runner, file, trust=self.trust))


def find_place(
    out: OutFolder, runner: Runner, progress: Progress, *, trust: bool = False
) -> CpuDevice | GpuPlace:
    """Returns the place, described before a model is loaded. It notes facts that can't be recorded.

    trust: see `open_generator`.
    """
    if runner is Runner.ONNX:
        return CpuDevice(about_cpu())
    gpu = local_gpu()
    if gpu is None:
        raise PatchCompileError(
            "No GPU answers", "An engine runs on one.", "Time its ONNX file: `--runner onnx`."
        )
    nvml, why = open_nvml()
    if nvml is None:
        progress.note(f"clocks, power and temperature are not recorded: {why}")
    backend = load_backend(engine_report(out).backend)
    device = about_gpu(gpu, nvml, backend.version)
    return GpuPlace(device, Library(backend.name), card_of_gpu(gpu), nvml, trust)
