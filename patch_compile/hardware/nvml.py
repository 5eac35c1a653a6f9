"""Reads the GPU's clocks, power and temperature with NVIDIA's management library (nvidia-ml-py)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["SLOWED_BY", "Nvml", "Sample", "SlowedBy", "open_nvml"]


class SlowedBy(StrEnum):
    """Reasons that hold a GPU's clocks down."""

    POWER_LIMIT = "power-limit"
    HARDWARE = "hardware"
    TEMPERATURE = "temperature"
    POWER_SUPPLY = "power-supply"


# Bits of nvmlDeviceGetCurrentClocksEventReasons, by pynvml's names. The bits for an idle GPU and for clocks that a
# person set are left out: they slow nothing that is timed.
SLOWED_BY = {
    "nvmlClocksThrottleReasonSwPowerCap": SlowedBy.POWER_LIMIT,
    "nvmlClocksThrottleReasonHwSlowdown": SlowedBy.HARDWARE,
    "nvmlClocksThrottleReasonSwThermalSlowdown": SlowedBy.TEMPERATURE,
    "nvmlClocksThrottleReasonHwThermalSlowdown": SlowedBy.TEMPERATURE,
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": SlowedBy.POWER_SUPPLY,
}


@dataclass(frozen=True)
class Sample:
    """One sample of the GPU's state. slowed: the reasons that keep the clocks down at the moment."""

    sm_mhz: int
    memory_mhz: int
    watts: float
    celsius: int
    slowed: tuple[SlowedBy, ...] = ()


class Nvml:
    """One GPU as the driver shows it. `open_nvml` makes it."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    @property
    def driver(self) -> str:
        """Returns the driver's version."""
        return str(self._nvml.nvmlSystemGetDriverVersion())

    @property
    def free_bytes(self) -> int:
        """Returns the bytes of free memory."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free)

    def sample(self) -> Sample:
        """Take a sample of the GPU's state."""
        nvml, gpu = self._nvml, self._handle
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
        return Sample(
            nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
            nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
            nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            tuple(
                dict.fromkeys(reason for name, reason in SLOWED_BY.items() if reasons & getattr(nvml, name))
            ),
        )


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
