"""Linears of an ONNX graph, independent of the nodes that compute them and of the layout of their weights, and their
names."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.table import KINDS
from masklearn.quant.table import INT8
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.tensor_names import torch_scopes
from patch_compile.packing.function import tensor_names

if TYPE_CHECKING:
    import onnx_ir as ir

SUFFIX = ".weight"
_MADE = (SUFFIX, ".bias", *(f".{name}" for name in tensor_names(KINDS, INT8)))
_SPLIT = re.compile(r"\.split\.")  # `<linear>.split.<what>`: see SplitLinearsPass


class Refusal(str):
    """Reason why a node is not a linear, in words. kind: the reason without the parts that differ from node to node, to be
    counted."""

    __slots__ = ("kind",)
    kind: str

    def __new__(cls, words: str, kind: str = "") -> Refusal:
        """kind: empty if it is the words."""
        made = super().__new__(cls, words)
        made.kind = kind or words
        return made


@dataclass(frozen=True)
class Linear:
    """One `Y = X Wᵀ + b`: a MatMul, a Gemm or a 1×1 convolution.

    nodes: the product, and the Add of the bias if it is a node; weight: the initializer that stores W, with no other reader;
    transposed: True if it stores [K, N]; shape: (N, K); dtype: type of X and Y, to which W may be cast; bias: an
    initializer of N elements; spatial: number of axes after the features of X and Y, 0 if features are the last axis;
    dequantize: the DequantizeLinear between the initializer and the product, which `find_linears` only finds if asked.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    weight: ir.Value
    transposed: bool
    shape: tuple[int, int]
    dtype: ir.DataType
    bias: ir.Value | None
    spatial: int = 0
    dequantize: ir.Node | None = None

    @property
    def product(self) -> ir.Node:
        return self.nodes[0]

    @property
    def output(self) -> ir.Value:
        """Y [..., N], or [B, N, ...] for a convolution."""
        return self.nodes[-1].outputs[0]

    @property
    def x(self) -> ir.Value:
        """X [..., K], or [B, K, ...] for a convolution. It is read from the graph, because a pass may have replaced its
        producer."""
        x = self.product.inputs[0]
        assert x is not None
        return x

    @property
    def path(self) -> tuple[ir.Node, ...]:
        """The nodes between the initializer and the product, the last node first: Transpose, Cast and Identity."""
        path: list[ir.Node] = []
        value = self.product.inputs[1]
        while value is not None and (node := value.producer()) is not None:
            path.append(node)
            value = node.inputs[0]
        return tuple(path)

    @property
    def lowerable(self) -> bool:
        """True if the linear has the form that lowering passes take: MatMul or Gemm with an initializer [N, K], called
        `<linear>.weight`, in the linear's type."""
        named = str(self.weight.name).endswith(SUFFIX)
        return named and not self.transposed and not self.spatial and self.weight.dtype == self.dtype

    def rows(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Returns the inputs as rows of K features, fp32 `[rows, K]`."""
        moved = np.moveaxis(x, 1, -1) if self.spatial else x
        return np.ascontiguousarray(moved.reshape(-1, self.shape[1]), dtype=np.float32)

    def checked_weight(self, dtype: ir.DataType) -> NDArray[np.float32]:
        """Returns the stored W `[N, K]` in fp32.

        Raises PatchCompileError if it is not finite, or does not fit `dtype`, the 16-bit type of its packed form.
        """
        from patch_compile.onnx_io.write import cast_weight

        assert self.weight.const_value is not None
        stored = self.from_stored(self.weight.const_value)
        if not bool(np.isfinite(stored.astype(np.float32)).all()):
            raise PatchCompileError(
                f"{self.weight.name} holds NaN or infinity",
                f"It is the weight of {self.name}.",
                f"The model is damaged: fetch it again, or leave the linear dense with --exclude '{self.name}'.",
            )
        cast_weight(str(self.weight.name), stored, dtype)
        return stored.astype(np.float32)

    def rounded(self, tensor: ir.TensorProtocol, dtype: ir.DataType) -> NDArray[Any]:
        """Returns W `[N, K]` in the 16-bit type of its packed form. tensor: present or earlier content of `weight`."""
        from patch_compile.onnx_io.write import cast_weight

        return cast_weight(str(self.weight.name), self.from_stored(tensor), dtype)

    def to_stored(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Returns the content of `weight`, in its type and layout, for W `[N, K]`."""
        assert self.weight.dtype is not None and self.weight.shape is not None
        # numpy cannot convert its own 16-bit type directly to a 16-bit type of ml_dtypes; fp32 holds both exactly.
        array = weight.astype(np.float32).astype(self.weight.dtype.numpy())
        return np.ascontiguousarray(array.T) if self.transposed else array.reshape(self.weight.shape.numpy())

    def from_stored(self, tensor: ir.TensorProtocol) -> NDArray[Any]:
        """Returns W `[N, K]` from the content of `weight`."""
        stored = tensor.numpy()
        return np.ascontiguousarray(stored.T if self.transposed else stored.reshape(self.shape))


@dataclass
class FoundLinears:
    """Linears by name, in graph order. skipped: nodes that stay dense, by name, with the reason in words."""

    linears: dict[str, Linear] = field(default_factory=dict)
    skipped: dict[str, Refusal] = field(default_factory=dict)

    def add(self, node: ir.Node, linear: Linear | Refusal) -> None:
        """Add a linear, or the reason why a node is not a linear."""
        if isinstance(linear, Refusal):
            self.skipped[unique(node_name(node), self.skipped)] = linear
        else:
            self.linears[linear.name] = linear


def linear_name(weight: ir.Value, product: ir.Node, taken: Container[str]) -> str:
    """Returns the first of these names that exists, made unique:

    1. the initializer's name without `.weight`: `encoder.0.fc` for `encoder.0.fc.weight`;
    2. the module of the node according to torch's exporter;
    3. the node's path: `layers.0.linear1` for `/layers.0/linear1/MatMul`;
    4. the initializer's name.
    """
    name = str(weight.name)
    if name.endswith(SUFFIX) and name != SUFFIX:
        return unique(name.removesuffix(SUFFIX), taken)
    scopes = torch_scopes(product)
    return unique((scopes[-2] if len(scopes) > 1 else "") or _path(product) or name, taken)


def owners_of(constant: str) -> set[str]:
    """Returns the names of all linears that may have an initializer of this name during or after compilation."""
    whole = {constant.removesuffix(end) for end in _MADE if constant.endswith(end)}
    return whole | {constant[: match.start()] for match in _SPLIT.finditer(constant)}


def reserved_names(graph: ir.Graph) -> set[str]:
    """Returns names that no linear can have, because a graph input or output has the name of one of its constants."""
    names = [str(value.name) for value in (*graph.inputs, *graph.outputs)]
    return set().union(*map(owners_of, names))


def node_name(node: ir.Node) -> str:
    """Returns a node's name; its kind and output if it has no name."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"


def unique(name: str, taken: Container[str]) -> str:
    """Returns `name`, or the first of `name_2`, `name_3`, … that is not taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _path(node: ir.Node) -> str:
    parts = [part for part in (node.name or "").split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{node.op_type}(_\d+)?", parts[-1]):
        parts.pop()
    return ".".join(parts)
