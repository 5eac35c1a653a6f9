"""state.json: the finished stages of an unfinished build. It also marks the build's folder as ours."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from masklearn.json_text import read_json
from patch_compile.errors import PatchCompileError
from patch_compile.out.durable import HALF_WRITTEN, write_json
from patch_compile.out.layout import STATE
from patch_compile.out.lock import LOCK

__all__ = [
    "StageRecord",
    "WorkspaceState",
    "holds_nothing",
    "is_workspace",
    "path_in_out",
    "read_records",
    "stages_of",
]

_MAKER = "patch-compile"
# A run that was killed before or while it marked the folder leaves these files.
_BEFORE_THE_MARK = {LOCK, STATE + HALF_WRITTEN}
_REPLACED = re.compile(r"\..+\.replaced-[0-9a-f]{16}")


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: its key, and sha256 by path in OUT of its files."""

    key: str
    files: dict[str, str]


@dataclass
class WorkspaceState:
    """Content of state.json. replaces: name beside OUT to which publishing moves the build that it replaces."""

    records: dict[str, StageRecord] = field(default_factory=dict)
    replaces: str | None = None

    @classmethod
    def read(cls, folder: Path) -> WorkspaceState:
        """Read the state of a folder, empty if it has none. Raises PatchCompileError for a file that is not ours."""
        path = folder / STATE
        if not path.is_file():
            return cls()
        content = _read(path)
        records, replaces = read_records(path), content.get("replaces")
        # Earlier versions wrote no maker, and no state before a stage was finished.
        if not (records or content.get("made_by") == _MAKER):
            raise _unreadable(
                path, f"patch-compile did not write it: it has no stages and no made_by: {_MAKER}"
            )
        if replaces is not None and not (isinstance(replaces, str) and _REPLACED.fullmatch(replaces)):
            raise _unreadable(path, f"{replaces!r} is no name that a build gives to one that it replaces")
        return cls(records, replaces)

    def write(self, folder: Path) -> None:
        """Write state.json. If the process is killed, the old file or the new one is there."""
        replaces = {} if self.replaces is None else {"replaces": self.replaces}
        write_json(folder / STATE, {"made_by": _MAKER, **replaces, "stages": stages_of(self.records)})


def stages_of(records: Mapping[str, StageRecord]) -> dict[str, dict[str, Any]]:
    """Returns the finished stages in the form of state.json and manifest.json."""
    return {name: {"key": r.key, "files": r.files} for name, r in records.items()}


def read_records(path: Path) -> dict[str, StageRecord]:
    """Read the stages of a state.json or manifest.json. Raises PatchCompileError for invalid content."""
    content = _read(path)
    try:
        records = {n: StageRecord(s["key"], dict(s["files"])) for n, s in content["stages"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from None
    try:
        for name in (name for record in records.values() for name in record.files):
            path_in_out(name)
    except ValueError as error:
        raise _unreadable(path, str(error)) from None
    return records


def path_in_out(name: str) -> str:
    """Returns the name of a file in OUT, as a manifest has it. Raises ValueError for one that leads out of OUT."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError(f"It names a file outside its folder: {name!r}.")
    return name


def is_workspace(folder: Path) -> bool:
    """Returns True if a build of ours has made the folder or may take it: a state.json marks it, or it is empty.

    Raises PatchCompileError if its state.json can't be read.
    """
    if folder.is_symlink():
        return False
    if holds_nothing(folder):
        return True
    if not (folder / STATE).is_file():
        return not os.path.lexists(folder)  # another process published or discarded it meanwhile
    WorkspaceState.read(folder)
    return True


def holds_nothing(folder: Path) -> bool:
    """Returns True if the folder holds nothing that a user could miss."""
    try:
        return not {path.name for path in folder.iterdir()} - _BEFORE_THE_MARK
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    if not isinstance(content, dict):
        raise _unreadable(path, "It is no JSON object.")
    return content


def _unreadable(path: Path, why: str) -> PatchCompileError:
    return PatchCompileError(
        f"{path} cannot be read",
        why,
        f"Choose another -o, or move {path.parent} away; remove it if nothing in it is yours.",
    )
