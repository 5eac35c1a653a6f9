"""A linear in the graph of an arbitrary ONNX file, independent of the node that computes it and of its weight's
layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.sources.onnx_model.names import node_name, unique

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FoundLinears", "OnnxLinear", "Refusal"]


class Refusal(str):
    """Reason why a node is no linear, in words. kind: the same without what differs from node to node, to be counted."""

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, words: str, kind: str = "") -> Refusal:
        """kind: empty if it is the words."""
        made = super().__new__(cls, words)
        made.kind = kind or words
        return made


@dataclass(frozen=True)
class OnnxLinear:
    """One `Y = X Wᵀ + b`: a MatMul, a Gemm or a 1×1 convolution, whose `nodes` compute `output` from `x`.

    weight: the initializer that stores W; transposed: True if it stores [K, N]; shape: (N, K); bias: an initializer of N
    elements; spatial: number of axes after the features of X and Y, 0 if features are the last axis.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    weight: ir.Value
    transposed: bool
    shape: tuple[int, int]
    bias: ir.Value | None
    output: ir.Value
    spatial: int = 0

    @property
    def x(self) -> ir.Value:
        """X [..., K], or [B, K, ...] for a convolution. It is read from the graph, because a pass may have replaced its
        producer."""
        x = self.nodes[0].inputs[0]
        assert x is not None
        return x

    @property
    def dtype(self) -> ir.DataType:
        """Type of X and Y. W may be stored in another type and cast."""
        read = self.nodes[0].inputs[1]
        assert read is not None and read.dtype is not None
        return read.dtype

    def rows(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the inputs as rows of K features, fp32 `[rows, K]`."""
        moved = np.moveaxis(x, 1, -1) if self.spatial else x
        return np.ascontiguousarray(moved.reshape(-1, self.shape[1]), dtype=np.float32)

    def from_stored(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Returns W `[N, K]` from the content of the initializer."""
        return np.ascontiguousarray(stored.T if self.transposed else stored.reshape(self.shape))

    def to_stored(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Returns the content of the initializer for W `[N, K]`."""
        return np.ascontiguousarray(weight.T) if self.transposed else weight.reshape(self._stored_shape)

    @property
    def _stored_shape(self) -> tuple[int, ...]:
        assert self.weight.shape is not None
        return tuple(int(size) for size in self.weight.shape.numpy())


@dataclass
class FoundLinears:
    """Linears by name, in graph order. skipped: nodes that stay dense, by name, with the reason in words."""

    linears: dict[str, OnnxLinear] = field(default_factory=dict)
    skipped: dict[str, Refusal] = field(default_factory=dict)

    def add(self, node: ir.Node, found: OnnxLinear | Refusal) -> None:
        """Add a linear, or the reason why a node is none."""
        if isinstance(found, Refusal):
            self.skipped[unique(node_name(node), self.skipped)] = found
        else:
            self.linears[found.name] = found
