"""Makes decoders that give only the last position's logits give those of all positions, for perplexity and
comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.base.durable import temporary_file
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.tensor_names import LOGITS

if TYPE_CHECKING:
    import onnx

__all__ = ["with_all_logits"]

_HEADS = ("MatMul", "Gemm", "PatchLinear")
_SEQUENCE = "sequence"


@contextmanager
def with_all_logits(path: Path) -> Iterator[Path]:
    """Yield a file of the decoder at `path` that gives logits of all positions, `[batch, sequence, vocab]`.

    The file is a copy of the graph without the Slice before the head. It uses the same data file, lies beside it, and is
    removed at the end. If the graph has no such Slice, `path` itself is yielded.
    """
    import onnx

    model = load_proto(path)
    if not _drop_slice(model.graph):
        yield path
        return
    # External data must lie in the folder of the graph.
    with temporary_file(path) as beside:
        onnx.save_model(model, str(beside))
        yield beside


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
