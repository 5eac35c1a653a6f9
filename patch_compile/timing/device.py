"""Places that models are timed on: this machine's GPU for engines, its CPU for ONNX files in ONNX Runtime."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patch_compile.artifacts.bench import Library, TimedOn
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, ENGINE_REPORT, ONNX, RECIPE
from patch_compile.engine.backend import load_backend
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.hardware.gpu import Gpu, local_gpu
from patch_compile.hardware.nvml import Nvml, open_nvml
from patch_compile.planning.cards import PlanCard, card_of_gpu
from patch_compile.progress import Progress
from patch_compile.runtime import Runner
from patch_compile.runtime.engine_fit import engine_facts, why_not
from patch_compile.timing.engine_runner import open_engine_runner
from patch_compile.timing.timing import OnnxRunner, OwnProcess


@dataclass(frozen=True)
class Place:
    """Times engines on this machine's GPU with the library that built them, or ONNX files in ONNX Runtime on its CPU.

    card: None for a CPU and an unknown GPU; trust: see `open_generator`.
    """

    device: TimedOn
    library: Library
    card: PlanCard | None = None
    nvml: Nvml | None = None
    trust: bool = False

    @property
    def runner(self) -> Runner:
        """Returns the part of a build that it runs."""
        return Runner.ENGINE if self.library.on_gpu else Runner.ONNX

    def open(self, model: str, file: Path) -> OwnProcess:
        """Load a model in its own process."""
        if self.library.on_gpu:
            return OwnProcess(model, partial(open_engine_runner, file, trust=self.trust))
        return OwnProcess(model, partial(OnnxRunner, file))


def choose_runner(out: OutFolder, asked: Runner | None, progress: Progress) -> Runner:
    """Returns the requested runner, else the engine if this machine runs it, else ONNX Runtime.

    Raises PatchCompileError if the requested runner can't be used, and if there is nothing to time.
    """
    if asked is not Runner.ONNX:
        why_not = _why_no_engine(out)
        if why_not is None:
            return Runner.ENGINE
        if asked is Runner.ENGINE:
            raise PatchCompileError(
                f"The engine of {out.path} can't be timed here",
                sentence(why_not),
                "Time its ONNX file: `--runner onnx`.",
            )
        progress.note(f"in ONNX Runtime, not its engine: {why_not}")
    if not (out.path / ONNX).is_file():
        raise PatchCompileError(
            f"There is nothing to time in {out.path}",
            f"It holds no {ONNX}.",
            "Build it: `patch-compile build MODEL_DIR`.",
        )
    return Runner.ONNX


def find_place(out: OutFolder, runner: Runner, progress: Progress, *, trust: bool = False) -> Place:
    """Returns the place, described before a model is loaded. It notes facts that can't be recorded.

    trust: see `open_generator`.
    """
    if runner is Runner.ONNX:
        return Place(about_cpu(), Library.ONNX_RUNTIME)
    gpu = local_gpu()
    if gpu is None:
        raise PatchCompileError(
            "No GPU answers", "Engines run only on a GPU.", "Time its ONNX file: `--runner onnx`."
        )
    nvml, why = open_nvml()
    if nvml is None:
        progress.note(f"clocks, power and temperature are not recorded: {why}")
    backend = load_backend(engine_report(out).backend)
    device = _about_gpu(gpu, nvml, backend.version)
    return Place(device, Library(backend.name), card_of_gpu(gpu), nvml, trust)


def _why_no_engine(out: OutFolder) -> str | None:
    """Returns the reason why the engine of OUT can't be timed here, in words, or None if none is known beforehand."""
    engine = out.path / ENGINE
    return why_not(engine_facts(engine)) if engine.is_file() else "there is none"


def engine_report(out: OutFolder) -> EngineReport:
    """Returns the report of the engine of OUT. Raises PatchCompileError if there is none."""
    about = EngineReport.of(out.path)
    if about is None:
        raise PatchCompileError(
            f"{out.path} does not say how its engine was built",
            f"{ENGINE_REPORT} is not there.",
            f"Build it again: `patch-compile build --recipe {out.path / RECIPE} -o {out.path} --force`.",
        )
    return about


def about_cpu() -> TimedOn:
    """Returns the CPU's name, ONNX Runtime's version, the number of cores that this process may use, and the memory."""
    import onnxruntime
    import psutil

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return TimedOn(
        name=next(names, "") or platform.processor() or platform.machine(),
        backend_version=str(onnxruntime.__version__),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
    )


def _about_gpu(gpu: Gpu, nvml: Nvml | None, backend_version: str) -> TimedOn:
    """Returns the GPU's name and compute capability, and the driver's version if NVML is there."""
    major, minor = gpu.compute_capability
    return TimedOn(
        name=gpu.name,
        backend_version=backend_version,
        compute_capability=f"{major}.{minor}",
        driver=nvml.driver if nvml else None,
    )


def busy_share() -> float:
    """Returns the share of the cores that work on this machine keeps busy before the timing."""
    import psutil

    return float(psutil.cpu_percent(interval=0.5)) / 100
