"""JSON files of OUT as types: frozen models that refuse unknown keys, and files that carry a schema version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from masklearn.base.durable import write_whole
from masklearn.base.safe_read import json_object, read_json
from patch_compile.artifacts.layout import MANIFEST, RECIPE
from patch_compile.errors import reading

_VERSION = "schema"
_File = TypeVar("_File")
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
"""A measured time."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON to a temporary file, flush it, and rename it to `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


class Unit(StrEnum):
    """Units of the fields that people are shown. A unit also decides how its numbers are spelled."""

    NUMBER = ""
    WORDS = "words"
    QUOTE = "quote"  # generated text, of which spaces show too
    RATIO = "ratio"
    SHARE = "share"  # 0.4 is 40 %
    CHANGE = "change"  # 0.4 is +40 %
    PERPLEXITY = "perplexity"
    NATS = "nats per token"
    COUNT = "count"
    TIMES = "×"  # a speed-up
    BYTES = "bytes"
    MEGABYTES = "MB"  # of a number of bytes
    MICROSECONDS = "µs"
    MILLISECONDS = "ms"
    MEGAHERTZ = "MHz"
    WATTS = "W"
    CELSIUS = "°C"


class Shown(NamedTuple):
    """A field for readers. title: its label."""

    name: str
    title: str
    unit: Unit


def shown(title: str, unit: Unit = Unit.NUMBER) -> Any:
    """Declare a field that people are shown: `kl: Annotated[float, shown("KL to dense", Unit.NATS)]`."""
    return Field(title=title, json_schema_extra={"unit": unit.value})


class Record(BaseModel):
    """A part of a file in OUT."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def shown_fields(cls) -> dict[str, Shown]:
        """Returns the fields that people are shown, by name, in their order."""
        return {
            name: Shown(name, field.title, Unit(str(field.json_schema_extra["unit"])))
            for name, field in cls.model_fields.items()
            if field.title and isinstance(field.json_schema_extra, dict)
        }

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


class VersionedRecord(Record):
    """A record with a version, which programs that read its JSON can check. SCHEMA: the version."""

    SCHEMA: ClassVar[int]

    def as_json(self) -> dict[str, Any]:
        """Returns the record as JSON values, with the version first."""
        return {_VERSION: self.SCHEMA, **super().as_json()}


class FileRecord(VersionedRecord):
    """A whole file. SCHEMA: the version to write and read; WHAT: its content in words; PLACE: its path in OUT."""

    WHAT: ClassVar[str]
    PLACE: ClassVar[str]

    def write(self, path: Path) -> None:
        """Write the file under another name in the folder of `path`, and rename it when it is complete."""
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file. Raises PatchCompileError for another version, and for other content."""
        return cls.checked(path, TypeAdapter(cls))

    @classmethod
    def of(cls, out: Path) -> Self | None:
        path = out / cls.PLACE
        return cls.read(path) if path.is_file() else None

    @classmethod
    def checked(cls, path: Path, kind: TypeAdapter[_File]) -> _File:
        """Read the file as `kind`, which is this class or a union of its subclasses. Raises as `read` does."""
        out = next((folder for folder in path.parents if (folder / MANIFEST).is_file()), path.parent)
        fix = f"Make it again: {cls.made_by(out)}."
        with reading(path, fix, what=f"is not {cls.WHAT} that this patch-compile reads"):
            content = json_object(read_json(path))
            version = content.pop(_VERSION, None)
            if version != cls.SCHEMA:
                has = "no version" if version is None else f"version {version}"
                raise ValueError(f"It has {has}, and this program reads version {cls.SCHEMA}.")
            return kind.validate_python(content)

    @classmethod
    def made_by(cls, out: Path) -> str:
        return f"patch-compile build --recipe {out / RECIPE} -o {out} --force"
