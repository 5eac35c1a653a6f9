"""Describes the machine that the models are timed on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from patch_compile.hardware.gpu import Gpu
from patch_compile.hardware.nvml import Nvml

__all__ = ["about_cpu", "about_gpu", "busy_note"]

_BUSY = 0.25  # share of the cores that other work keeps busy before the timing


def about_cpu() -> dict[str, Any]:
    """Returns the CPU's name, the number of cores that this process may use, and the memory."""
    import psutil

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "name": next(names, "") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }


def about_gpu(gpu: Gpu, nvml: Nvml | None) -> dict[str, Any]:
    """Returns the GPU's name and compute capability, and the driver's version if NVML is there."""
    major, minor = gpu.compute_capability
    return {
        "name": gpu.name,
        "compute_capability": f"{major}.{minor}",
        "driver": nvml.driver if nvml else None,
    }


def busy_note() -> str:
    """Returns a note about other work on this machine before the timing, empty if there is little."""
    import psutil

    busy = psutil.cpu_percent(interval=0.5) / 100
    if busy < _BUSY:
        return ""
    return (
        f"other processes keep {busy:.0%} of the cores busy: times are longer than they need be; the models take turns, so "
        "that their ratios hold better"
    )
