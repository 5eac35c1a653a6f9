"""This machine's GPU, as the place that engines are timed on, and its clocks, power and temperature by NVIDIA's management
library (nvidia-ml-py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from patch_compile.artifacts.bench import ClockSample, Library, SlowedBy, TimedOn
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import ENGINE, ENGINE_REPORT, RECIPE
from patch_compile.engine.backend import load_backend
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.hardware.gpu import local_gpu
from patch_compile.planning.cards import PlanCard, card_of_gpu
from patch_compile.progress import Progress
from patch_compile.runtime.engine_fit import engine_facts, why_not
from patch_compile.timing.engine_runner import open_engine_runner
from patch_compile.timing.timing import OwnProcess

# Bits of nvmlDeviceGetCurrentClocksEventReasons, by pynvml's names. The bits for an idle GPU and for clocks that a
# person set are left out: they slow nothing that is timed.
SLOWED_BY = {
    "nvmlClocksThrottleReasonSwPowerCap": SlowedBy.POWER_LIMIT,
    "nvmlClocksThrottleReasonHwSlowdown": SlowedBy.HARDWARE,
    "nvmlClocksThrottleReasonSwThermalSlowdown": SlowedBy.TEMPERATURE,
    "nvmlClocksThrottleReasonHwThermalSlowdown": SlowedBy.TEMPERATURE,
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": SlowedBy.POWER_SUPPLY,
}


class Nvml:
    """One GPU as the driver shows it. `open_nvml` makes it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @property
    def driver(self) -> str:
        return str(self._nvml.nvmlSystemGetDriverVersion())

    @property
    def free_bytes(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    def sample(self) -> ClockSample:
        """Take a sample of the GPU's state."""
        nvml, gpu = self._nvml, self._handle
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
        slowed = dict.fromkeys(reason for name, reason in SLOWED_BY.items() if reasons & getattr(nvml, name))
        return ClockSample(
            sm_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            memory_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
            watts=nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
            celsius=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            slowed=tuple(slowed),
        )


@dataclass(frozen=True)
class Place:
    """Times engines on this machine's GPU with the library that built them.

    card: None for an unknown GPU; trust: see `open_generator`.
    """

    device: TimedOn
    library: Library
    card: PlanCard | None = None
    nvml: Nvml | None = None
    trust: bool = False

    def open(self, model: str, engine: Path) -> OwnProcess:
        return OwnProcess(model, partial(open_engine_runner, engine, trust=self.trust))


def find_place(out: OutFolder, progress: Progress, *, trust: bool = False) -> Place:
    """Returns the place, described before an engine is loaded. It notes facts that can't be recorded.

    trust: see `open_generator`. Raises PatchCompileError if this machine can't run the engine of OUT.
    """
    engine, gpu = out.path / ENGINE, local_gpu()
    why = why_not(engine_facts(engine)) if engine.is_file() else "there is none"
    if gpu is None or why:
        raise PatchCompileError(
            f"The engine of {out.path} can't be timed here",
            sentence(why or "no GPU answers"),
            "Build an engine, and time it on the GPU that it is for; the report has the predicted speed.",
        )
    nvml, why = open_nvml()
    if nvml is None:
        progress.note(f"clocks, power and temperature are not recorded: {why}")
    backend = load_backend(engine_report(out).backend)
    major, minor = gpu.compute_capability
    device = TimedOn(
        name=gpu.name,
        backend_version=backend.version,
        compute_capability=f"{major}.{minor}",
        driver=nvml.driver if nvml else None,
    )
    return Place(device, Library(backend.name), card_of_gpu(gpu), nvml, trust)


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


def open_nvml() -> tuple[Nvml | None, str]:
    """Open the first GPU that CUDA shows (CUDA_VISIBLE_DEVICES applies).

    Returns None and the reason, in words, if NVML can't be asked.
    """
    try:
        import pynvml
        from cuda.bindings import driver
    except ImportError as error:
        return None, f"{error.name} is not installed: pip install 'patch-compile[rtx]', or [tensorrt]"
    try:
        pynvml.nvmlInit()
        driver.cuInit(0)
        status, address = driver.cuDeviceGetPCIBusId(32, 0)
        if int(status):
            return None, f"CUDA does not tell the GPU's address ({status.name})"
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(address.split(b"\0")[0])
        nvml = Nvml(pynvml, handle)
        nvml.sample()  # a virtual GPU may lack these figures
    except (pynvml.NVMLError, RuntimeError) as error:  # cuda-bindings raises RuntimeError without a driver
        return None, str(error)
    return nvml, ""
