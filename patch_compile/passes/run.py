"""Runs passes in order, and writes the graph after each pass for debugging."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from masklearn.base.durable import whole_file
from patch_compile.debug import GRAPHS, debug_level, tell

if TYPE_CHECKING:
    import onnx_ir as ir

_LOGGER = logging.getLogger(__name__)
_DUMP = "patch_compile.dump"


class GraphPass(Protocol):
    """A pass of onnx_ir, or a fusion: called with a model, it says whether it changed it."""

    def __call__(self, model: "ir.Model", /) -> "ir.passes.PassResult":
        """Change the model in place, or return another model."""


class PassDump:
    """Writes a graph as text, without weights, before the first pass and after each pass, so that a diff shows its effect.

    The files are `00_start.txt`, `01_<Pass>.txt` and so on in `folder`. Later runs on the same model continue the count.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._count = 0

    def start(self, model: "ir.Model") -> None:
        """Write the graph before the first pass. Does nothing in a later run on the same model."""
        if self._count == 0:
            _write(model, self._folder / "00_start.txt")

    def after(self, name: str, model: "ir.Model") -> None:
        """Write the graph after the pass called `name`."""
        self._count += 1
        _write(model, self._folder / f"{self._count:02d}_{name}.txt")


def run_passes(model: "ir.Model", passes: Sequence[GraphPass], dump: PassDump | None = None) -> "ir.Model":
    """Run `passes` in order and return the model. Each pass checks what it requires and ensures.

    dump: see `PassDump`; None dumps into a folder that `debug.tell` names, if PATCH_COMPILE_DEBUG asks for graphs.
    """
    if dump is None and debug_level() >= GRAPHS:
        dump = _debug_dump(model)
    if dump is not None:
        dump.start(model)
    for graph_pass in passes:
        name = type(graph_pass).__name__
        before = len(model.graph)
        result = graph_pass(model)
        model = result.model
        _LOGGER.debug(
            "%s: %d -> %d nodes%s", name, before, len(model.graph), "" if result.modified else ", unchanged"
        )
        if dump is not None:
            dump.after(name, model)
    return model


def _debug_dump(model: "ir.Model") -> PassDump:
    """Returns the dump that the first passes on the model began, or a new dump."""
    if _DUMP not in model.meta:
        folder = Path(tempfile.mkdtemp(prefix="patch-compile-graphs-"))
        tell(GRAPHS, f"the graph after each pass is in {folder}")
        model.meta[_DUMP] = PassDump(folder)
    dump: PassDump = model.meta[_DUMP]
    return dump


def _write(model: "ir.Model", path: Path) -> None:
    """Write inputs, weights (name, type and shape), nodes, outputs, and the names of the functions that nodes call."""
    graph = model.graph
    lines = [f"input  {value}" for value in graph.inputs]
    lines += [f"weight {value.name} {value.dtype} {value.shape}" for value in graph.initializers.values()]
    lines += [f"{node.name}: {node}" for node in graph]
    lines += [f"output {value}" for value in graph.outputs]
    lines += [f"function {'::'.join(filter(None, identifier))}" for identifier in model.functions]
    with whole_file(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
