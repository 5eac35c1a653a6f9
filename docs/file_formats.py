"""Makes the page of the files that patch-compile writes from the modules that read and write them: reference/formats.md."""

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from enum import Enum

from pydantic import BaseModel

import patch_compile.artifacts
from masklearn.masks import stored
from masklearn.masks.record import MaskRecord
from patch_compile.artifacts.record import FileRecord
from patch_compile.packing import format as packed
from patch_compile.packing import index, integers, n16, six_eight

_HEAD = """# File formats

Made from the modules that read and write the files. Files of other versions are refused by name, and unknown fields too. The
folder OUT as a whole is described in [Building](../howto/building.md#what-is-in-out).
"""


def formats() -> str:
    """The page."""
    parts = [
        _HEAD,
        "## masks.safetensors",
        _prose(stored),
        "The metadata `record` says how the masks were made:",
    ]
    shown = set[type]()
    parts += _record(MaskRecord, 3, shown)
    parts += ["## Packed weights", "The tensors of a PatchLinear node in `onnx/model.onnx`."]
    for title, module in (
        ("Dense and 2:4 slabs", packed),
        ("Slabs of n:16", n16),
        ("Slabs of integers", integers),
        ("Slabs of 6:8", six_eight),
        ("The index", index),
    ):
        parts += [f"### {title}", _prose(module)]
    for one in sorted(_files(), key=lambda one: one.PLACE):
        parts += [f"## {one.PLACE}", f"Schema {one.SCHEMA}: {one.WHAT}."]
        parts += _record(one, 3, shown)
    return "\n\n".join(parts) + "\n"


def _files() -> Iterator[type[FileRecord]]:
    """Yields each kind of JSON file in OUT."""
    for module in pkgutil.iter_modules(patch_compile.artifacts.__path__):
        importlib.import_module(f"patch_compile.artifacts.{module.name}")
    waiting = [FileRecord]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if "PLACE" in vars(one):
            yield one


def _record(record: type[BaseModel], level: int, shown: set[type]) -> list[str]:
    """A record's fields as a table, and behind it those of the records in it that are not yet shown."""
    shown.add(record)
    rows = ["| field | type |", "| --- | --- |"]
    for name, field in record.model_fields.items():
        optional = "" if field.is_required() else ", may be missing"
        rows.append(f"| `{field.alias or name}` | {_type(field.annotation)}{optional} |")
    parts = [f"{'#' * level} {record.__name__}", _docstring(record), "\n".join(rows)]
    for inner in dict.fromkeys(_records_in(record)):
        if inner not in shown:
            parts += _record(inner, level, shown)
    return parts


def _records_in(record: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in record.model_fields.values():
        yield from _records_of(field.annotation)


def _records_of(annotation: typing.Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _records_of(inner)


def _type(annotation: typing.Any) -> str:
    """A type in words that need no Python."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _type(one) for one in inner)
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is not None and issubclass(origin, typing.Mapping):
        return f"{_type(inner[1])} by {_type(inner[0])}"
    if origin is not None:
        return f"list of {' or '.join(dict.fromkeys(_type(one) for one in inner if one is not ...))}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{one.value}`" for one in annotation)
    return getattr(annotation, "__name__", str(annotation))


def _prose(module: types.ModuleType) -> str:
    """A module's docstring as Markdown: pictures of layouts and tables keep their lines."""
    return _markdown(inspect.cleandoc(module.__doc__ or ""))


def _docstring(record: type) -> str:
    return _markdown(inspect.cleandoc(record.__doc__ or ""))


def _markdown(text: str) -> str:
    return re.sub(r"(?<!`)<(\w+)>", r"`<\1>`", text)
