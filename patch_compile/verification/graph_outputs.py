"""Copies of ONNX graphs that return more: logits of all positions, choices of routers, or any tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.base.durable import temporary_file
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.tensor_names import LOGITS

if TYPE_CHECKING:
    import onnx

_HEADS = ("MatMul", "Gemm", "PatchLinear")
_SEQUENCE = "sequence"


@contextmanager
def with_all_logits(path: Path) -> Iterator[Path]:
    """Yield a file of the decoder at `path` that gives logits of all positions, `[batch, sequence, vocab]`.

    The file is a copy of the graph without the Slice before the head. It uses the same data file, lies next to it, and is
    removed at the end. If the graph has no such Slice, `path` itself is yielded.
    """
    model = load_proto(path)
    if not _drop_slice(model.graph):
        yield path
        return
    with _saved_beside(model, path) as copy:
        yield copy


@contextmanager
def with_choices(path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield a file of the model at `path` whose outputs include the indices of every TopK, and the names of these outputs.

    The file lies next to `path`, uses the same data file, and is removed at the end. Without a TopK, `path` itself is
    yielded.
    """
    names = [node.output[1] for node in load_proto(path).graph.node if node.op_type == "TopK"]
    if not names:
        yield path, ()
        return
    with with_outputs(path, names) as shown:
        yield shown, tuple(names)


@contextmanager
def with_outputs(path: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a copy of the model with more outputs. It lies next to the model, because it uses the same data file."""
    import onnx

    model = load_proto(path)
    there = {output.name for output in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    for name in names:
        if name not in there:
            model.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
    with _saved_beside(model, path) as copy:
        yield copy


@contextmanager
def _saved_beside(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    import onnx

    with temporary_file(path) as copy:
        onnx.save_model(model, str(copy))
        yield copy


def _drop_slice(graph: onnx.GraphProto) -> bool:
    """Remove the Slice before the head. Returns False if there is none."""
    makers = {output: node for node in graph.node for output in node.output}
    behind = [LOGITS]  # values whose axis of positions grows
    node = makers.pop(LOGITS, None)
    while node is not None and node.op_type not in _HEADS:  # Gemma caps its logits
        behind += node.input[:1]
        node = makers.pop(behind[-1], None)
    if node is None or not node.input:
        return False
    cut = makers.get(node.input[0])
    if cut is None or cut.op_type != "Slice":
        return False
    node.input[0] = cut.input[0]
    for value in (*graph.output, *graph.value_info):
        if value.name in behind:
            value.type.tensor_type.shape.dim[1].dim_param = _SEQUENCE
    graph.node.remove(cut)
    return True
