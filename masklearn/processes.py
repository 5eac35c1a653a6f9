"""Lets the main one of several processes do work for all: it writes a file, and the others wait for that file."""

import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["is_main_process", "leave", "made_once", "process_count", "process_rank"]

_POLL = 0.2  # seconds
# Environment variables of torchrun, which `accelerate launch` uses too, and of the MPI launchers that accelerate supports.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_rank() -> int:
    """Returns the number of this process among those that a launcher started together, 0 for a single process."""
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0)


def is_main_process() -> bool:
    """Returns True in a single process, and in the first of several."""
    return process_rank() == 0


def process_count() -> int:
    """Returns the number of processes that a launcher started together, 1 for a single process."""
    return next((int(os.environ[name]) for name in _COUNTS if name in os.environ), 1)


def leave(folder: Path) -> None:
    """End the work of this process. The main process waits until all processes call this, the others return at once.

    Before they call it, the others may read and write files in the scratch folder, which the main process deletes at the
    end. A process group is destroyed, because its threads may abort a process that exits without doing so.

    folder: a folder of this launch only, which all processes share.
    """
    import torch

    (folder / f"left-{process_rank()}").touch()
    while is_main_process() and len(list(folder.glob("left-*"))) < process_count():
        time.sleep(_POLL)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def made_once(path: Path, make: Callable[[], object]) -> Path:
    """Returns `path` after the main process has made it with `make`, unless it exists already.

    path: a file in a folder that all processes share; make: writes it, and renames it to `path` when it is complete. The
    other processes wait for the file instead of a barrier of the process group, because one-shot pruning of a large model
    takes longer than the timeout of a barrier. If the main process fails, the launcher ends the others.
    """
    if not is_main_process():
        while not path.exists():
            time.sleep(_POLL)
    elif not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make()
    return path
