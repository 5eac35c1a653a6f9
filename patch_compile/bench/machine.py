"""What the models were timed on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from patch_compile.hardware.gpu import Gpu
from patch_compile.hardware.nvml import Nvml

__all__ = ["about_cpu", "about_gpu", "busy_note"]

_BUSY = 0.25  # of the cores, by what ran before the timing


def about_cpu() -> dict[str, Any]:
    """Its name, cores that this process may use, and memory."""
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
    """Its name, compute capability, and the driver where that can be asked."""
    major, minor = gpu.compute_capability
    return {
        "name": gpu.name,
        "compute_capability": f"{major}.{minor}",
        "driver": nvml.driver if nvml else None,
    }


def busy_note() -> str:
    """What to say of other work on this machine, before anything is timed; empty where there is little."""
    import psutil

    busy = psutil.cpu_percent(interval=0.5) / 100
    if busy < _BUSY:
        return ""
    return (
        f"other processes keep {busy:.0%} of the cores busy: times are longer than they need be; the models take turns, so "
        "that their ratios hold better"
    )
