"""Chooses the device of a run, and finds the free memory of a device."""

import resource
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.base.errors import MaskLearnError, UsageError
from masklearn.base.processes import local_process_count

if TYPE_CHECKING:
    import torch


def usable_device(name: str | None) -> "torch.device":
    """Returns the named device. None means CUDA if the machine has it, else the CPU.

    Raises UsageError for a name that PyTorch does not know, and MaskLearnError if this machine lacks the device.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        known = torch.device(name)
    except RuntimeError:
        why = "PyTorch has no device of this name."
        raise UsageError(f"The device {name!r} cannot be used", why, "Give cpu or cuda.") from None
    try:
        return torch.empty(0, device=known).device
    except (RuntimeError, AssertionError) as error:
        raise MaskLearnError(
            f"The device {name!r} cannot be used", str(error).splitlines()[0], "Give cpu or cuda."
        ) from error


def available_memory(device: "torch.device", groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the bytes that this process can still allocate on a device.

    On a GPU this is the free memory. On a CPU it is the memory that the host and its control group have free, divided by
    the number of processes on the host, and at most what a limit on the data of the process leaves (`ulimit -d`). groups:
    root of the control groups.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    shared = min([free, *_group_limits(groups)]) // local_process_count()
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY:
        return shared
    return min(shared, limit - int(psutil.Process().memory_info().data))


def _group_limits(root: Path) -> list[int]:
    """Returns the bytes left in the process's control groups of version 2 and 1, if they set limits."""
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
