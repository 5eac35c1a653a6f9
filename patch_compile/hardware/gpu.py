"""Asks the CUDA driver for this machine's GPU, without torch or a CUDA toolkit, and NVIDIA's management library
(nvidia-ml-py) for its clocks, power and temperature."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from patch_compile.artifacts.bench import ClockSample, SlowedBy

__all__ = ["DRIVER", "SLOWED_BY", "Gpu", "Nvml", "local_gpu", "open_nvml"]

DRIVER = "libcuda.so.1"
_SUCCESS = 0
# CUdevice_attribute in cuda.h, which is part of the driver's stable ABI.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """The first GPU that the driver shows: its name and compute capability."""

    name: str
    compute_capability: tuple[int, int]


def local_gpu() -> Gpu | None:
    """Returns the GPU with index 0 (CUDA_VISIBLE_DEVICES applies), or None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    device = ctypes.c_int()
    if driver.cuInit(0) != _SUCCESS or driver.cuDeviceGet(ctypes.byref(device), 0) != _SUCCESS:
        return None
    name = ctypes.create_string_buffer(256)
    if driver.cuDeviceGetName(name, len(name), device) != _SUCCESS:
        return None
    major = _attribute(driver, _COMPUTE_CAPABILITY_MAJOR, device)
    minor = _attribute(driver, _COMPUTE_CAPABILITY_MINOR, device)
    if major is None or minor is None:
        return None
    return Gpu(name.value.decode(errors="replace"), (major, minor))


def _attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int | None:
    value = ctypes.c_int()
    status = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value if status == _SUCCESS else None


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
        """Returns the driver's version."""
        return str(self._nvml.nvmlSystemGetDriverVersion())

    @property
    def free_bytes(self) -> int:
        """Returns the bytes of free memory."""
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
