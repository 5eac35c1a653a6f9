"""Lets the processes of one launch learn together: the first leads, in OUT's scratch folder, and the others join it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from masklearn.base.processes import leave, process_count
from patch_compile.artifacts.layout import MANIFEST
from patch_compile.artifacts.workspace import Workspace, key_of

_POLL = 0.2  # seconds


@contextmanager
def rank0(scratch: Path) -> Iterator[None]:
    """Learn as the first process inside this context, which waits for the others at its end."""
    if process_count() == 1:
        yield
        return
    launch = _launch(scratch)
    shutil.rmtree(launch, ignore_errors=True)  # left by an interrupted run
    launch.mkdir()
    yield
    leave(launch)


def join(out: Path, learn: Callable[[], None]) -> None:
    """Wait until the first process learns, and learn with it. Returns without learning if the first process reuses its
    masks."""
    manifest, launch = out / MANIFEST, _launch(Workspace.scratch_of(out))
    while not launch.exists():  # the first process may still be removing an earlier run
        if manifest.is_file() and manifest.stat().st_mtime > started():  # the first process reused the masks
            return
        time.sleep(_POLL)
    learn()
    leave(launch)


def started(pid: int | None = None) -> float:
    """Returns when a process started, None for this process, to a hundredth of a second: seconds since the epoch.

    psutil adds the time since boot to the second of boot, and so may be a second early: earlier than the end of the run
    before.
    """
    fields = Path("/proc", str(pid or "self"), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime of proc(5)
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def _launch(scratch: Path) -> Path:
    """Returns the folder whose existence shows that the first process of this launch learns in this scratch folder."""
    launch = (os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_PORT"))
    return scratch / f"launch-{key_of(*launch)[:16]}"
