"""Describes and verifies a file or folder that the tool reads or writes, for `patch-compile inspect`.

Each kind of file has a function from a path to an `Inspection`. `inspect_path` chooses the function by the content.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masklearn.model.pretrained import ADAPTER
from patch_compile.artifacts.layout import MANIFEST, RECIPE
from patch_compile.artifacts.place import unfinished_build
from patch_compile.errors import PatchCompileError, UsageError

__all__ = ["Inspection", "inspect_path"]

_ELF = b"\x7fELF"
_CONFIG = "config.json"
_BEGINNING = 4096  # bytes that tell text from an engine


@dataclass(frozen=True)
class Inspection:
    """Result of `inspect`.

    kind: kind of the file or folder, in words; facts: name to value, in the order in which they are shown; rows: rows of a
    table, all with the same keys; checked: the verified properties, in words; faults: the faults, empty if there are none.
    """

    path: Path
    kind: str
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    checked: str = ""
    faults: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Returns the result for JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            **self.facts,
            "rows": [dict(row) for row in self.rows],
            "checked": self.checked,
            "faults": list(self.faults),
        }


def inspect_path(path: Path, target: str | None = None) -> Inspection:
    """Inspect a file or folder. target: a card, to look at the zeros of a model folder or an ONNX file and predict what they
    gain on it.

    Raises PatchCompileError if it is missing, of an unknown kind, or can't be read, or if another kind has a target.
    Raises OSError, with a name, if the operating system refuses it.
    """
    try:
        return _inspected(path) if target is None else _sparsity(path, target)
    except OSError as error:
        if error.filename is None:  # of reading or mapping a file that is open
            error.filename = str(path)
        raise


def _sparsity(path: Path, target: str) -> Inspection:
    from patch_compile.planning.cards import card_of

    card = card_of(target)
    if not path.exists():
        return _inspected(path)
    from patch_compile.inspection.sparsity import inspect_graph_sparsity, inspect_sparsity

    if path.suffix == ".onnx":
        return inspect_graph_sparsity(path, card)
    if not _is_model(path):
        raise UsageError(
            f"`target` is given, and {path} is no model",
            f"Zeros are looked for in the weights of a folder with a {_CONFIG}, or of an ONNX file.",
            "Give what an engine was made from, OUT/model for an OUT, or no `target`.",
        )
    return inspect_sparsity(path, card)


def _inspected(path: Path) -> Inspection:
    if path.is_dir():
        return _inspect_folder(path)
    if not path.is_file() and (unfinished := unfinished_build(path)):
        raise unfinished
    if not path.is_file():
        raise PatchCompileError(
            f"No file at {path}",
            "There is no such file or folder.",
            "Give a file or folder that patch-compile writes or reads.",
        )
    if path.suffix == ".onnx":
        from patch_compile.inspection.onnx_graph import inspect_onnx

        return inspect_onnx(path)
    if path.suffix == ".safetensors":
        from patch_compile.inspection.tensors import inspect_tensors

        return inspect_tensors(path)
    from patch_compile.engine.plan_program import is_engine
    from patch_compile.inspection.binaries import inspect_engine_file, inspect_plugin

    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning.startswith(_ELF):
        return inspect_plugin(path)
    if is_engine(path):
        return inspect_engine_file(path)
    if _is_text(beginning):
        raise PatchCompileError(
            f"{path} is text",
            "It can be read as it is.",
            f"Inspect the folder that holds it, if {MANIFEST} or {_CONFIG} is in there.",
        )
    raise PatchCompileError(
        f"{path} is a file of an unknown kind",
        "Neither its name nor its content is of an engine, an ONNX file, safetensors or a plugin.",
        "Name an engine of TensorRT NAME.engine.",
    )


def _is_text(beginning: bytes) -> bool:
    """True if the beginning of a file is text, such as JSON or HTML. The last character may be cut off."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(beginning)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(character.isprintable() or character.isspace() for character in text)


def _is_model(path: Path) -> bool:
    """True for a model, and for an adapter, which is refused like a broken model."""
    return (path / _CONFIG).is_file() or (path / ADAPTER).is_file()


def _inspect_folder(path: Path) -> Inspection:
    from patch_compile.inspection.folders import inspect_build, inspect_checkpoint

    if (path / MANIFEST).is_file():
        return inspect_build(path)
    if _is_model(path):
        return inspect_checkpoint(path)
    if unfinished := unfinished_build(path):
        raise unfinished
    raise PatchCompileError(
        f"{path} is neither a model nor a build",
        f"It holds no {_CONFIG} and no {MANIFEST}.",
        f"Give a model folder, or the OUT of a build ({RECIPE} and {MANIFEST} are in it).",
    )
