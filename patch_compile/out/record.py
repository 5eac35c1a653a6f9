"""JSON of OUT as types: frozen models that refuse a key they do not know, and files that carry their version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import RECIPE
from patch_compile.out.workspace import write_json

__all__ = ["FileRecord", "Record"]

_VERSION = "schema"


class Record(BaseModel):
    """A part of a file in OUT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_json(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return self.model_dump(mode="json")


class FileRecord(Record):
    """A whole file in OUT. `SCHEMA` is the version that is written and read, `WHAT` its content in words."""

    SCHEMA: ClassVar[int]
    WHAT: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """The file's content, its version first."""
        return {_VERSION: self.SCHEMA, **super().as_json()}

    def write(self, path: Path) -> None:
        """Write the file beside its place and rename it when whole."""
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file. Raises PatchCompileError for one of another version, or one that holds something else."""
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise cls._unreadable(path, f"It is not JSON: {error}.") from None
        if not isinstance(content, dict):
            raise cls._unreadable(path, f"It holds no object but {type(content).__name__}.")
        found = content.pop(_VERSION, None)
        if found != cls.SCHEMA:
            has = "no version, as files from before versions" if found is None else f"version {found}"
            raise cls._unreadable(path, f"It has {has}, and version {cls.SCHEMA} is read.")
        try:
            return cls(**content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise cls._unreadable(path, f"{where}: {first['msg']}.") from None

    @classmethod
    def _unreadable(cls, path: Path, why: str) -> PatchCompileError:
        return PatchCompileError(
            f"{path} is not {cls.WHAT} that this patch-compile reads",
            why,
            f"Make it again: patch-compile build --recipe {path.parent / RECIPE} -o {path.parent} --force.",
        )
