"""Work that one of several processes does for all: what it makes is a file that the others wait for."""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["is_main_process", "leave", "made_once", "process_count", "process_rank"]

_POLL = 0.2  # seconds
# Of torchrun, which `accelerate launch` uses too, and of the MPI launchers that accelerate knows.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_rank() -> int:
    """Number of this process among those that a launcher started together; 0 in a single process."""
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0)


def is_main_process() -> bool:
    """True in a single process, and in the first of several."""
    return process_rank() == 0


def process_count() -> int:
    """Number of processes that a launcher started together; 1 for a single process."""
    return next((int(os.environ[name]) for name in _COUNTS if name in os.environ), 1)


def leave(folder: Path) -> None:
    """End this process's part: the main process waits until all have come here, the others go on.

    Until then they may wait for, or write, files in the scratch folder, which the main process removes when it is
    done. A process group, if one was made, is ended: its threads may abort a process that exits without. folder: of
    this launch alone, seen by all.
    """
    import torch

    (folder / f"left-{process_rank()}").touch()
    while is_main_process() and len(list(folder.glob("left-*"))) < process_count():
        time.sleep(_POLL)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
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
