"""Run passes in order, and show what each did to the graph."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["run_passes"]

_LOGGER = logging.getLogger(__name__)


def run_passes(
    model: "ir.Model", passes: "Sequence[ir.passes.PassBase]", dump_dir: Path | None = None
) -> "ir.Model":
    """Run `passes` in order; each checks what it requires and ensures.

    With `dump_dir`, the graph before the first and after each pass is written there as text,
    `00_start.txt`, `01_<Pass>.txt` and so on (weights by name, type and shape only).
    """
    if dump_dir is not None:
        dump_dir.mkdir(parents=True, exist_ok=True)
        _dump(model, dump_dir / "00_start.txt")
    for number, graph_pass in enumerate(passes, start=1):
        name = type(graph_pass).__name__
        before = len(model.graph)
        result = graph_pass(model)
        model = result.model
        _LOGGER.debug(
            "%s: %d -> %d nodes%s", name, before, len(model.graph), "" if result.modified else ", unchanged"
        )
        if dump_dir is not None:
            _dump(model, dump_dir / f"{number:02d}_{name}.txt")
    return model


def _dump(model: "ir.Model", path: Path) -> None:
    graph = model.graph
    lines = [f"input  {value}" for value in graph.inputs]
    lines += [f"weight {value.name} {value.dtype} {value.shape}" for value in graph.initializers.values()]
    lines += [f"{node.name}: {node}" for node in graph]
    lines += [f"output {value}" for value in graph.outputs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
