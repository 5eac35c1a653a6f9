"""Builds in `OUT.partial` next to OUT, and renames it to OUT when everything in it is complete.

A stage writes its files into `OUT.partial`. Its key (a hash of all its inputs) and the sha256 of its files are then
recorded in `OUT.partial/state.json`. A stage with unchanged key and files does not run again: after an interruption,
with `--resume`, and when OUT itself is replaced, with `--force`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from masklearn.base.durable import flush_folder, flush_tree
from patch_compile.artifacts.layout import MANIFEST, SCRATCH, STATE
from patch_compile.artifacts.lock import LOCK, FolderLock
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.place import (
    RUNNING,
    check_out,
    check_replaceable,
    is_half_published,
    name_aside,
    partial_of,
    place_of,
)
from patch_compile.artifacts.stage_files import (
    files_under,
    foreign_files,
    intact,
    link,
    remove,
    sha256_of,
    sweep,
)
from patch_compile.artifacts.state import StageRecord, WorkspaceState
from patch_compile.errors import PatchCompileError


class Workspace:
    """The unfinished OUT, which belongs to one process until `release` or the end of the process.

    It also locks the build that it replaces, so that `verify` and `bench` don't write into that meanwhile. Raises
    PatchCompileError as `check_out` does, and if another process has locked either.
    """

    def __init__(self, out: Path, *, force: bool = False, resume: bool = False) -> None:
        check_out(out, force=force, resume=resume)
        self.out = place_of(out)
        self.root = partial_of(self.out)
        self.reused: list[str] = []
        self._locks: dict[Path, FolderLock] = {}
        self._state, self._previous = WorkspaceState(), dict[str, StageRecord]()
        try:
            with _disk_errors(self.root):
                self._open(force=force, resume=resume)
        except BaseException:
            self.release()
            with contextlib.suppress(OSError):
                self.root.rmdir()  # removes it only if it is empty
            raise

    def _open(self, *, force: bool, resume: bool) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self._locks[self.root] = FolderLock(self.root, RUNNING)
        state = WorkspaceState.read(self.root)
        self._force = _put_back(state, self.out) or force or (resume and is_half_published(self.out))
        # Again, since another run may have written it meanwhile.
        check_out(self.out, force=self._force, resume=resume, held=True)
        if self.out.exists():
            self._lock_out()
            _finish_publishing(self.out)
            self._previous = Manifest.read(self.out / MANIFEST).stages
        self._state = WorkspaceState(state.records if resume else {}, unfinished=sorted(state.own_paths))
        self._state.write(self.root)
        sweep(self.root, self._state.records, (STATE, LOCK, *([SCRATCH] if resume else [])))
        self.scratch.mkdir(exist_ok=True)
        self._finish()

    @property
    def records(self) -> dict[str, StageRecord]:
        return self._state.records

    @property
    def scratch(self) -> Path:
        """Returns the folder of files that only later stages need. Publishing removes it."""
        return self.root / SCRATCH

    @staticmethod
    def scratch_of(out: Path) -> Path:
        """Returns the `scratch` folder of an unfinished build of `out`. Processes without the workspace use it."""
        return partial_of(place_of(out)) / SCRATCH

    def run(self, stage: str, key: str, outputs: list[str], work: Callable[[Path], None]) -> None:
        """Run `work(root)`, which writes `outputs` (files or folders), unless its result is already there."""
        self._check_ours()
        if self._reuse(stage, key, outputs):
            self.reused.append(stage)
            return
        try:
            with _disk_errors(self.root):
                self._clear(stage, outputs)
                work(self.root)
                self._check_ours()
                for name in outputs:  # before state.json says that they are whole
                    flush_tree(self.root / name)
                files = {name: sha256_of(self.root / name) for name in files_under(self.root, outputs)}
                self._finish({stage: StageRecord(key, files)})
        except Exception:
            self._check_ours()  # an error that follows from the removal of the folder gives way to one that says so
            raise

    def drop(self, stage: str, outputs: list[str]) -> None:
        """Remove a finished stage that this run does not have, with its `outputs` (files or folders)."""
        if stage not in self.records:
            return
        self._check_ours()
        with _disk_errors(self.root):
            self._clear(stage, outputs)
            self._finish()

    def forget(self) -> None:
        self._state = WorkspaceState(replaces=self._state.replaces, unfinished=sorted(self._state.own_paths))

    def _clear(self, stage: str, outputs: list[str]) -> None:
        """Remove the files of a stage. Before, state.json notes that they are not whole."""
        self.records.pop(stage, None)
        self._state.unfinished = outputs
        self._state.write(self.root)
        for name in outputs:
            remove(self.root / name)

    def _finish(self, records: Mapping[str, StageRecord] | None = None) -> None:
        """Note in state.json that every file is whole, with the records of a stage that is now finished."""
        self.records.update(records or {})
        self._state.unfinished = []
        self._state.write(self.root)

    def publish(self) -> Path:
        """Put the finished build in the place of OUT, and return that path.

        It removes state.json last. If anything before fails or kills the process, `--resume` finds every stage
        finished, and the build that was to be replaced is still at OUT or is put back there. Raises PatchCompileError
        if OUT can't be replaced.
        """
        self._check_complete()
        with _publishing_errors(
            f"{self.out} can't be put in place",
            "Fix that and run it again with --resume, which keeps the finished stages.",
        ):
            shutil.rmtree(self.scratch)
            flush_tree(self.root)
            self._swap()
        with _publishing_errors(
            f"{self.out} is whole, but what only publishing needed is not gone",
            "Check the disk, and run it again with --resume.",
        ):
            _finish_publishing(self.out)
        return self.out

    def discard_if_empty(self) -> bool:
        """Remove the folder unless it holds a finished stage or training state. Returns True if the folder is gone."""
        # Only state.json records the name of a build that could not be put back.
        aside = self._state.replaces
        if self.records or (aside and (self.out.parent / aside).exists()):
            return not self.root.exists()
        if not self._locks[self.root].holds():  # the folder there now is not ours
            return not self.root.exists()
        if any(self.scratch.rglob("*checkpoint*")) or foreign_files(self.root, self._state.own_paths):
            return False
        with contextlib.suppress(OSError):
            sweep(self.root, {}, (STATE, LOCK))
            (self.root / STATE).unlink()
        self.release()
        with contextlib.suppress(OSError):
            self.root.rmdir()
        return True

    def release(self) -> None:
        """Let other processes use OUT and its unfinished build. A second call does nothing."""
        while self._locks:
            self._locks.popitem()[1].release()

    def _check_ours(self) -> None:
        """Raise PatchCompileError if the folder was removed or replaced since this process locked it."""
        if not self._locks[self.root].holds():
            raise PatchCompileError(
                f"{self.root} was removed or replaced during the build",
                "The unfinished build was in it.",
                "Start again, and do not touch that folder until the build is done.",
            )

    def _check_complete(self) -> None:
        """Raise PatchCompileError if a file of a finished stage is gone, since it would be missing in OUT."""
        self._check_ours()
        names = (name for record in self.records.values() for name in record.files)
        if gone := [name for name in names if not (self.root / name).is_file()]:
            raise PatchCompileError(
                f"{self.root / gone[0]} was removed during the build",
                f"OUT would lack it{f' and {len(gone) - 1} more' if gone[1:] else ''}.",
                "Run it again with --resume, which makes it again.",
            )

    def _lock_out(self) -> None:
        if self.out not in self._locks:
            self._locks[self.out] = FolderLock(self.out)

    def _swap(self) -> None:
        """Publish by two renames. Before the first, state.json records the name that the replaced build gets."""
        check_replaceable(self.out, force=self._force)  # again, since the build took hours
        replaces, aside = self.out.exists(), name_aside(self.out)
        if replaces:
            self._lock_out()
            self._state.replaces = aside.name
            self._state.write(self.root)
        try:
            if replaces:
                self.out.rename(aside)
            self.root.rename(self.out)
        except BaseException:
            if self.root.exists():
                _put_back(self._state, self.out)
            raise
        self._locks[self.root].folder = self.out
        flush_folder(self.out.parent)

    def _reuse(self, stage: str, key: str, outputs: list[str]) -> bool:
        for home, records in ((self.root, self.records), (self.out, self._previous)):
            record = records.get(stage)
            if record is None or record.key != key or not intact(home, record):
                continue
            if home is not self.root:
                self._clear(stage, outputs)
                for name in record.files:
                    link(home / name, self.root / name)
                self._finish({stage: record})
            return True
        return False


def key_of(*parts: object) -> str:
    """Returns a hash of JSON-able parts, which identifies a stage's inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _put_back(state: WorkspaceState, out: Path) -> bool:
    """Undo the first rename of an interrupted publication that lacks the second. Returns True if it undid a rename."""
    aside = None if state.replaces is None else out.with_name(state.replaces)
    if aside is None or not aside.is_dir():
        return False
    if os.path.lexists(out):
        raise PatchCompileError(
            f"{out} and {aside} are both there",
            "A run was interrupted while it replaced the second, and since then the first was put into its place.",
            "Keep one of them at the place of the first, and move the other away.",
        )
    aside.rename(out)
    flush_folder(out.parent)
    return True


def _finish_publishing(out: Path) -> None:
    """Remove from a published OUT the files that only publishing needed, and the build that OUT replaced."""
    if not is_half_published(out):
        return
    replaces = WorkspaceState.read(out).replaces
    if replaces is not None and (aside := out.with_name(replaces)).exists():
        if (aside / MANIFEST).is_file():  # else a run was killed while it removed the folder
            check_replaceable(aside, force=True)
        shutil.rmtree(aside)
    (out / STATE).unlink()
    flush_folder(out)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise PatchCompileError(
            f"Nothing can be written below {root}",
            os.strerror(error.errno),
            "Make room or choose another -o; --resume continues after the last finished stage.",
        ) from error


@contextmanager
def _publishing_errors(what: str, fix: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PatchCompileError(what, str(error), fix) from error
