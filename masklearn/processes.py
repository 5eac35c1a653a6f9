"""Work that one of several processes does for all: what it makes is a file that the others wait for."""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["is_main_process", "leave", "made_once", "process_count", "process_rank"]

_POLL = 0.2  # seconds
# Of torchrun, which `accelerate launch` uses too, and of the MPI launchers that accelerate knows.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_rank() -> int:
    """Number of this process among those that a launcher started together; 0 in a single process."""
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0)


def is_main_process() -> bool:
    """True in a single process, and in the first of several."""
    return process_rank() == 0


def process_count() -> int:
    """Processes that this launch has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave() -> None:
    """End the process group, if there is one, when all processes have come here.

    Until then the others may wait for files of the main process, which it removes when it is done; and the threads
    of a group that is not ended may abort a process that exits.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def made_once(path: Path, make: Callable[[], object]) -> Path:
    """`path`, which `make` leaves behind, renamed when whole; nothing is made where it is there already.

    The main process makes it and the others wait, in a folder that all of them see. Files are waited for, not a
    barrier of the process group: one-shot pruning of a large model takes longer than a barrier waits, and when the
    main process fails, the launcher ends the others.
    """
    if not is_main_process():
        while not path.exists():
            time.sleep(_POLL)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make()
    return path
