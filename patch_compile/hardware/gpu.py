"""Asks the CUDA driver for this machine's GPU, without torch and without a CUDA toolkit."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

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
