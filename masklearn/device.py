"""The device that a run computes on, and the memory that is left there."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.errors import PatchCompileError

if TYPE_CHECKING:
    import torch

__all__ = ["available_memory", "usable_device"]


def usable_device(name: str | None) -> "torch.device":
    """The device of this name, None for CUDA when there is one. PatchCompileError when it cannot be used."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PatchCompileError(
            f"The device {name!r} cannot be used", str(error).splitlines()[0], "Give cpu or cuda."
        ) from error


def available_memory(device: "torch.device") -> int:
    """Bytes that this process can still take on a device: free on a GPU, its share of what the host and its control
    group leave on a CPU.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    return min([free, *_group_limits()]) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _group_limits() -> list[int]:
    """What the process's control group leaves, of version 2 and 1, where it sets a limit."""
    root = Path("/sys/fs/cgroup")
    pairs = (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    )
    left = []
    for limit, used in pairs:
        try:
            left.append(int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return left
