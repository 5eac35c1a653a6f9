"""Where a build happens: `OUT.partial` beside OUT, renamed to OUT when everything in it is whole.

A stage writes its files into `OUT.partial`; when it is done, its key (a hash of all that went into it) and the sha256
of its files are recorded in `OUT.partial/state.json`. A stage whose key and files are unchanged is not run again:
after an interruption with `--resume`, and when OUT itself is replaced with `--force`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patch_compile.durable import write_json
from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import MANIFEST, PARTIAL, SCRATCH, STATE

__all__ = ["StageRecord", "Workspace", "check_out", "key_of", "sha256_of", "write_json"]


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: its key and its files (path relative to OUT → sha256)."""

    key: str
    files: dict[str, str]


class Workspace:
    """The unfinished form of OUT. Raises PatchCompileError as `check_out` does."""

    def __init__(self, out: Path, *, force: bool = False, resume: bool = False) -> None:
        check_out(out, force=force, resume=resume)
        self.out = Path.cwd() / out
        self.root = _partial(self.out)
        self._previous = _read_records(self.out / MANIFEST, self.out) if force else {}
        if self.root.exists() and force and not resume:
            shutil.rmtree(self.root)
        self.records = _read_records(self.root / STATE, self.root)
        self.reused: list[str] = []
        with _disk_errors(self.root):
            self.scratch.mkdir(parents=True, exist_ok=True)

    @property
    def scratch(self) -> Path:
        """Files that only later stages need; removed when the build is published."""
        return self.root / SCRATCH

    @staticmethod
    def scratch_of(out: Path) -> Path:
        """The folder that `scratch` is while OUT is being built, for other processes."""
        return _partial(Path.cwd() / out) / SCRATCH

    def run(self, stage: str, key: str, outputs: list[str], work: Callable[[Path], None]) -> None:
        """Run `work(root)`, which writes `outputs` (files or folders), unless its result is already there."""
        if self._reuse(stage, key):
            self.reused.append(stage)
            return
        self.records.pop(stage, None)
        for name in outputs:
            _remove(self.root / name)
        with _disk_errors(self.root):
            work(self.root)
            files = {name: sha256_of(self.root / name) for name in _files_under(self.root, outputs)}
            self.records[stage] = StageRecord(key, files)
            write_json(self.root / STATE, {"stages": self.stages()})

    def stages(self) -> dict[str, dict[str, Any]]:
        """The finished stages, for state.json and manifest.json."""
        return {name: {"key": r.key, "files": r.files} for name, r in self.records.items()}

    def publish(self) -> Path:
        """Put the finished build in the place of OUT."""
        shutil.rmtree(self.scratch)
        (self.root / STATE).unlink()
        old = self.out.with_name(self.out.name + ".old")
        if self.out.exists():
            self.out.rename(old)
        self.root.rename(self.out)
        if old.exists():
            shutil.rmtree(old)
        return self.out

    def discard_if_empty(self) -> bool:
        """Remove the folder unless a stage was finished or training state kept in it; True when it is gone."""
        if self.records or any(self.scratch.rglob("*checkpoint*")):
            return False
        shutil.rmtree(self.root, ignore_errors=True)
        return True

    def _reuse(self, stage: str, key: str) -> bool:
        for home, records in ((self.root, self.records), (self.out, self._previous)):
            record = records.get(stage)
            if record is None or record.key != key or not _intact(home, record):
                continue
            if home is not self.root:
                for name in record.files:
                    _link(home / name, self.root / name)
                self.records[stage] = record
                write_json(self.root / STATE, {"stages": self.stages()})
            return True
        return False


def check_out(out: Path, *, force: bool, resume: bool) -> None:
    """Raise PatchCompileError when OUT or an unfinished build of it is there and no flag says what to do with it."""
    root = _partial(out)
    if out.exists() and not force:
        raise PatchCompileError(
            f"{out} exists",
            "a build never overwrites an earlier one",
            "use --force to replace it, or another -o",
        )
    if out.exists() and not (out / MANIFEST).is_file():
        raise PatchCompileError(
            f"{out} was not made by patch-compile",
            f"it holds no {MANIFEST}, so --force will not replace it",
            "choose another -o",
        )
    if root.exists() and not (force or resume):
        raise PatchCompileError(
            f"{root} holds an unfinished build",
            "an earlier run was interrupted",
            "use --resume to go on, or --force to start anew",
        )


def key_of(*parts: object) -> str:
    """Hash of JSON-able parts: the identity of a stage's inputs."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partial(out: Path) -> Path:
    return out.with_name(out.name + PARTIAL)


def _read_records(path: Path, home: Path) -> dict[str, StageRecord]:
    if not path.is_file():
        return {}
    try:
        stages = json.loads(path.read_text())["stages"]
        return {name: StageRecord(s["key"], dict(s["files"])) for name, s in stages.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise PatchCompileError(
            f"{path} cannot be read", str(error), f"remove {home}, or build to another -o"
        ) from None


def _intact(home: Path, record: StageRecord) -> bool:
    return all((home / n).is_file() and sha256_of(home / n) == digest for n, digest in record.files.items())


def _files_under(root: Path, outputs: list[str]) -> Iterator[str]:
    for name in outputs:
        path = root / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield str(file.relative_to(root))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """Hard link where the file system allows, a copy elsewhere; finished files are never written to again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise PatchCompileError(
            f"cannot write below {root}",
            os.strerror(error.errno),
            "make room or choose another -o; --resume goes on from the last finished stage",
        ) from error
