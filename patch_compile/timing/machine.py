"""Describes the machine that the models are timed on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from patch_compile.artifacts.bench import TimedOn
from patch_compile.hardware.gpu import Gpu
from patch_compile.hardware.nvml import Nvml

__all__ = ["about_cpu", "about_gpu", "busy_share"]


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


def about_gpu(gpu: Gpu, nvml: Nvml | None, backend_version: str) -> TimedOn:
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
