"""Machine and day of a measured row."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from masklearn.base.device import usable_device
from masklearn.model.modules import computes_in_bf16


def origin() -> dict[str, str]:
    """Machine and day, which each row keeps because the rows of a page come from several machines."""
    return {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def machine() -> str:
    """Processor with its vector instructions and bf16 units, cores and memory; the GPU if there is a GPU.

    Seconds on different machines can't be compared: a step of SmolLM2-135M's repair takes 3.0 s on two cores of a Xeon
    with AMX, 5.9 s on two of an EPYC with AVX512-BF16 and 10.6 s on two that show only AVX2.
    """
    device, cores = usable_device(None), len(os.sched_getaffinity(0))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cpu = next(names, platform.machine())
    by_tiles = "AMX " * torch.cpu._is_amx_tile_supported()
    bf16 = f", {by_tiles}bf16" if computes_in_bf16(torch.device("cpu")) else ""
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    instructions = f"{torch.backends.cpu.get_cpu_capability()}{bf16}"
    memory = psutil.virtual_memory().total / 2**30
    return f"{gpu}{cpu} ({instructions}), {cores} cores, {memory:.0f} GiB"
