"""A served decoder gives the last position's logits alone; perplexity and comparisons want those of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["with_all_logits"]

_HEADS = ("MatMul", "Gemm", "PatchLinear")
_LOGITS, _SEQUENCE = "logits", "sequence"


@contextmanager
def with_all_logits(path: Path) -> Iterator[Path]:
    """The decoder at `path` as a file that gives logits of all positions, `[batch, sequence, vocab]`.

    It is the same graph but for the Slice before the head, has the same data file, and lies beside it until the end;
    `path` itself where the graph takes no slice.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if not _drop_slice(model.graph):
        yield path
        return
    beside = path.with_name(
        f".{path.stem}.all-logits.onnx"
    )  # external data must lie in the folder of the graph
    try:
        onnx.save_model(model, str(beside))
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _drop_slice(graph: onnx.GraphProto) -> bool:
    """Give the head all positions; whether it took the last alone."""
    makers = {output: node for node in graph.node for output in node.output}
    behind = [_LOGITS]  # values that get more positions
    node = makers[_LOGITS]
    while node.op_type not in _HEADS:  # Gemma caps its logits
        behind.append(node.input[0])
        node = makers[node.input[0]]
    cut = makers.get(node.input[0])
    if cut is None or cut.op_type != "Slice":
        return False
    node.input[0] = cut.input[0]
    for value in (*graph.output, *graph.value_info):
        if value.name in behind:
            value.type.tensor_type.shape.dim[1].dim_param = _SEQUENCE
    graph.node.remove(cut)
    return True
