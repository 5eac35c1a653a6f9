"""The pruned ONNX model in its own dense layout: the graph as it was read, with new and masked weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.checkpoint.prune import masked_weight
from masklearn.checkpoint.store import WeightStore
from masklearn.masks.linear_mask import LinearMask
from patch_compile.onnx_io.write import write_onnx
from patch_compile.sources.onnx_model.linears import OnnxLinear
from patch_compile.sources.onnx_model.weights import put_weight, read_rounded

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["write_pruned"]


def write_pruned(
    model: ir.Model,
    linears: Mapping[str, OnnxLinear],
    masks: Mapping[str, LinearMask],
    store: WeightStore,
    dtype: ir.DataType,
    path: Path,
    progress: Callable[[str, int, int], object],
) -> None:
    """Write `path` (+ .data); one weight is in memory at a time. The model's weights are replaced by lazy ones.

    Weights of linears with 2:4 tiles are rounded to `dtype`, the type they are packed in, and keep the type they are stored
    in; those of all others stay as they are, bit for bit. store: new values `[N, K]` by linear, not masked.
    """
    import onnx_ir as ir

    sparse = [name for name in linears if masks[name].tiles.any()]
    for done, name in enumerate(sparse, start=1):
        linear, tensor = linears[name], linears[name].weight.const_value
        assert tensor is not None

        def make(name: str = name, done: int = done, tensor: ir.TensorProtocol = tensor) -> ir.TensorProtocol:
            progress(name, done, len(sparse))
            stored = store.read(name) if name in store else read_rounded(linears[name], tensor, dtype)
            return put_weight(linears[name], masked_weight(stored, masks[name].keep()))

        shape = ir.Shape(tensor.shape.numpy())
        linear.weight.const_value = ir.LazyTensor(
            make, dtype=tensor.dtype, shape=shape, name=linear.weight.name, cache=False
        )
    write_onnx(model, path)
