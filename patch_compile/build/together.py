"""Processes of one launch that learn together: the first leads, in the scratch folder of OUT, and the others find it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from masklearn.processes import leave, process_count
from patch_compile.out.layout import MANIFEST
from patch_compile.out.workspace import Workspace, key_of

__all__ = ["leading", "take_part"]

_POLL = 0.2  # seconds


@contextmanager
def leading(scratch: Path) -> Iterator[None]:
    """The first process learns in here; at the end it waits for the others."""
    if process_count() == 1:
        yield
        return
    launch = _launch(scratch)
    shutil.rmtree(launch, ignore_errors=True)  # of a run that was interrupted
    launch.mkdir()
    yield
    leave(launch)


def take_part(out: Path, learn: Callable[[], None]) -> None:
    """Wait until the first process learns, and learn with it; or until it has found that there is nothing to learn."""
    launch = _launch(Workspace.scratch_of(out))
    while not launch.exists():  # the first process may have to clear an earlier run away
        if _published_since_start(out):  # it found the masks unchanged
            return
        time.sleep(_POLL)
    learn()
    leave(launch)


def _published_since_start(out: Path) -> bool:
    manifest = out / MANIFEST
    return manifest.is_file() and manifest.stat().st_mtime > psutil.Process().create_time()


def _launch(scratch: Path) -> Path:
    """A folder that is there when the first process of this launch learns, in this scratch folder."""
    launch = (os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_PORT"))
    return scratch / f"launch-{key_of(*launch)[:16]}"
