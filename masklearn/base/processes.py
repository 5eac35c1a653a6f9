"""Lets the main process do work for all processes: it writes a file, and the others wait for that file."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from masklearn.base.errors import UsageError

_POLL = 0.2  # seconds
# Environment variables of torchrun, which `accelerate launch` uses too, and of the MPI launchers that accelerate supports.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def process_rank() -> int:
    """Returns the number of this process among those that a launcher started together, 0 for a single process.

    Raises UsageError if a variable of the launcher is not a valid process number.
    """
    name = next((name for name in _RANKS if name in os.environ), None)
    if name is None:
        return 0
    rank, count = _number(name, 0), process_count()
    if rank >= count:
        raise UsageError(
            f"The environment variable {name} is {rank}, and the launcher started {count}",
            "It is the number of this process among those that learn together, counted from 0.",
            "Unset it, or start the command with torchrun or `accelerate launch`.",
        )
    return rank


def is_main_process() -> bool:
    return process_rank() == 0


def process_count() -> int:
    """Returns the number of processes that a launcher started together, 1 for a single process.

    Raises UsageError if the launcher's variable is not a valid number of processes.
    """
    return next((_number(name, 1) for name in _COUNTS if name in os.environ), 1)


def local_process_count() -> int:
    """Returns the number of these processes that run on this machine. Raises as `process_count`."""
    return _number("LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in os.environ else 1


def _number(name: str, least: int) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise UsageError(
            f"The environment variable {name} is {text!r}",
            f"A launcher of several processes sets it to a number, at least {least}.",
            "Unset it, or start the command with torchrun or `accelerate launch`.",
        )
    return int(text)


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
