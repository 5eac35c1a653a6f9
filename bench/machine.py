"""Where and when a row was measured."""

from datetime import UTC, datetime

import torch

from masklearn.device import usable_device
from masklearn.precision import computes_in_bf16
from patch_compile.benching.machine import about_cpu

__all__ = ["machine", "origin"]


def origin(device: str | None = None) -> dict[str, str]:
    """Machine and day, to be kept with a row: the rows of a page come from several."""
    return {"machine": machine(device), "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def machine(device: str | None = None) -> str:
    """Processor, its vector instructions, whether it multiplies in bf16, cores and memory; the GPU where one is used.

    A step of SmolLM2-135M's repair takes 5.9 s on two cores of an EPYC with AVX512-BF16 and 10.6 s on two that show
    AVX2 alone, so minutes on them are not the same. device: of the recipe.
    """
    cpu = about_cpu()
    usable = usable_device(device)
    parts = [f"{cpu['name']} ({torch.backends.cpu.get_cpu_capability()}{_bf16(usable)})"]
    if usable.type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(usable))
    return f"{', '.join(parts)}, {cpu['cores']} cores, {cpu['memory_bytes'] / 2**30:.0f} GiB"


def _bf16(device: torch.device) -> str:
    return ", bf16" if device.type == "cpu" and computes_in_bf16("auto", device) else ""
