"""Places that models are timed on: this machine's GPU for engines, its CPU for ONNX files in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from patch_compile.bench.engine_runner import open_engine_runner
from patch_compile.bench.engines import engine_report
from patch_compile.bench.machine import about_cpu, about_gpu
from patch_compile.bench.onnx_runner import OnnxRunner
from patch_compile.bench.own_process import OwnProcess
from patch_compile.engine.backend import load_backend
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.gpu import local_gpu
from patch_compile.hardware.nvml import Nvml, open_nvml
from patch_compile.out.folder import OutFolder
from patch_compile.plan.cards import PlanCard, card_of_gpu
from patch_compile.progress import Progress
from patch_compile.runtime import Runner

__all__ = ["CpuPlace", "GpuPlace", "find_place"]


@dataclass(frozen=True)
class CpuPlace:
    """Times ONNX files in ONNX Runtime on the CPU."""

    version: str
    device: dict[str, Any]
    name: str = "onnxruntime"
    runner: Runner = Runner.ONNX
    card: PlanCard | None = None
    nvml: Nvml | None = None

    def open(self, model: str, file: Path) -> OwnProcess:
        """Load a model in a process of its own."""
        return OwnProcess(model, partial(OnnxRunner, file))

    @property
    def what(self) -> str:
        """Returns in words the form of the models that are timed."""
        return (
            f"ONNX files in ONNX Runtime {self.version} on the CPU ({self.device['name']}, {self.device['cores']} cores). "
            "It says nothing about a GPU, nor about what 2:4 gains: ONNX Runtime has no 2:4 kernels, and runs PatchLinear "
            "as the function it is defined by, a dense product of weights that are unpacked when the model is loaded"
        )


@dataclass(frozen=True)
class GpuPlace:
    """Times engines on this machine's GPU, with the library that built them."""

    version: str
    device: dict[str, Any]
    name: str
    card: PlanCard | None
    nvml: Nvml | None
    runner: Runner = Runner.ENGINE

    def open(self, model: str, file: Path) -> OwnProcess:
        """Load a model in a process of its own."""
        return OwnProcess(model, partial(open_engine_runner, file))

    @property
    def what(self) -> str:
        """Returns in words the form of the models that are timed."""
        return (
            f"engines of {self.name} {self.version} on {self.device['name']}, by the GPU's clock (CUDA events): inputs are "
            "there before and outputs stay there; a prompt runs as it is queued, a decode step as a CUDA graph, as the "
            "runtime runs them; nothing is sampled"
        )


def find_place(out: OutFolder, runner: Runner, progress: Progress) -> CpuPlace | GpuPlace:
    """Returns the place, described before a model is loaded. It notes facts that can't be recorded."""
    if runner is Runner.ONNX:
        import onnxruntime

        return CpuPlace(str(onnxruntime.__version__), about_cpu())
    gpu = local_gpu()
    if gpu is None:
        raise PatchCompileError(
            "no GPU answers", "an engine runs on one", "time its ONNX file: --runner onnx"
        )
    nvml, why = open_nvml()
    if nvml is None:
        progress.note(f"clocks, power and temperature are not recorded: {why}")
    backend = load_backend(_backend(out))
    device = {**about_gpu(gpu, nvml), "backend_version": backend.version}
    return GpuPlace(backend.version, device, str(backend.name), card_of_gpu(gpu), nvml)


def _backend(out: OutFolder) -> str:
    return engine_report(out).backend
