"""state.json: the finished stages of an unfinished build. It also marks the build's folder as ours."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from masklearn.base.durable import is_temporary
from masklearn.base.printable import shown
from masklearn.base.safe_read import read_json
from patch_compile.artifacts.layout import CARD, MANIFEST, PAGE, RECIPE, SCRATCH, STATE
from patch_compile.artifacts.lock import LOCK
from patch_compile.artifacts.record import write_json
from patch_compile.errors import reading

NAME_MAX = 255  # bytes of a file name on every file system of Linux
_PATH_MAX = 1024  # bytes of a path in OUT; Linux takes 4095, with the path of OUT before it
# What a build writes outside of stages.
_BESIDE_STAGES = frozenset({STATE, LOCK, SCRATCH, RECIPE, MANIFEST, PAGE, CARD})


def _path_in_out(name: str) -> str:
    """Returns the name of a file in OUT, as a manifest has it. Raises ValueError for a name that leads out of OUT, or is too
    long for a file."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise ValueError(f"It names a file outside its folder: {shown(name)!r}.")
    if len(os.fsencode(name)) > _PATH_MAX or any(len(os.fsencode(part)) > NAME_MAX for part in path.parts):
        raise ValueError(f"The name of a file is too long: {shown(name)!r}.")
    return name


PathInOut = Annotated[str, AfterValidator(_path_in_out)]


@dataclass(frozen=True)
class StageRecord:
    """A finished stage: its key, and sha256 by path in OUT of its files."""

    key: str
    files: dict[PathInOut, str]


@dataclass(frozen=True)
class _Stored:
    stages: dict[str, StageRecord]
    made_by: Literal["patch-compile"]
    replaces: Annotated[str, Field(pattern=r"^\.[^/]+\.replaced-[0-9a-f]{16}$")] | None = None
    unfinished: list[PathInOut] = field(default_factory=list)


_STORED = TypeAdapter(_Stored)


@dataclass
class WorkspaceState:
    """Content of state.json.

    replaces: name next to OUT to which publishing moves the build that it replaces; unfinished: paths in the folder of files
    and folders that a run had begun to write or to remove.
    """

    records: dict[str, StageRecord] = field(default_factory=dict)
    replaces: str | None = None
    unfinished: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> WorkspaceState:
        """Read the state of a folder, empty if it has none. Raises PatchCompileError for a file that is not ours."""
        path = folder / STATE
        if not path.is_file():
            return cls()
        fix = f"Choose another -o, or move {folder} away; remove it if nothing in it is yours."
        with reading(path, fix):
            stored = _STORED.validate_python(read_json(path))
        return cls(stored.stages, stored.replaces, stored.unfinished)

    def write(self, folder: Path) -> None:
        """Write state.json. If the process is killed, the old file or the new file is there."""
        replaces = {} if self.replaces is None else {"replaces": self.replaces}
        unfinished = {"unfinished": self.unfinished} if self.unfinished else {}
        stages = {name: asdict(record) for name, record in self.records.items()}
        write_json(folder / STATE, {"made_by": "patch-compile", **replaces, **unfinished, "stages": stages})

    @property
    def own_paths(self) -> frozenset[str]:
        """Returns the paths in the folder of files and folders that builds wrote or had begun to write."""
        files = (name for record in self.records.values() for name in record.files)
        return _BESIDE_STAGES.union(files, self.unfinished)


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
        # A run that was killed before it marked the folder leaves a lock and a half-written mark.
        return all(path.name == LOCK or is_temporary(path.name) for path in folder.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
