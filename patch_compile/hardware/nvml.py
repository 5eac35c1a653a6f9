"""Reads the GPU's clocks, power and temperature with NVIDIA's management library (nvidia-ml-py)."""

from __future__ import annotations

from typing import Any

from patch_compile.artifacts.bench import ClockSample, SlowedBy

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
