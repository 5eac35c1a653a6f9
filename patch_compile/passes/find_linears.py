"""Finds the linears of a graph, so that a pass can replace them one by one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.onnx_io.proto import STANDARD_DOMAINS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LinearSite", "find_linears", "is_bias"]

_LOGGER = logging.getLogger(__name__)
_SUFFIX = ".weight"


@dataclass(frozen=True)
class LinearSite:
    """One `Y = X Wᵀ + b` in the graph.

    nodes: compute `output` from `x`; no other node reads the values between them. They include the Transpose of the
    weight only if no other node reads it. product: the MatMul or Gemm. shared: True if the weight has other readers, as
    that of a tied head has.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    product: ir.Node
    weight: ir.Value  # initializer [N, K], named `<name>.weight`
    bias: ir.Value | None  # initializer [N]
    output: ir.Value  # [..., N]
    shared: bool

    @property
    def x(self) -> ir.Value:
        """Input [..., K]. Read from the graph at each call, because a pass may have replaced the node that makes it."""
        x = self.product.inputs[0]
        assert x is not None
        return x

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K): out_features, in_features."""
        shape = self.weight.shape
        assert shape is not None
        n, k = shape
        assert isinstance(n, int) and isinstance(k, int)
        return n, k


def find_linears(model: ir.Model) -> dict[str, LinearSite]:
    """Returns every linear by name, in graph order.

    1. MatMul(x, Transpose(W)) is a linear if W is an initializer [N, K] named `<name>.weight`.
    2. Gemm(x, W, b) is one if transB = 1, transA = 0 and alpha = beta = 1.
    3. After either, Add of an initializer [N] is the bias, if no other node reads the product.
    A weight used by two linears is left out, with a warning: one replacement can't serve both.
    """
    sites: dict[str, LinearSite] = {}
    repeated: set[str] = set()
    for node in model.graph:
        site = _site(node)
        if site is None:
            continue
        if site.name in sites:
            repeated.add(site.name)
        sites[site.name] = site
    for name in repeated:
        _LOGGER.warning("%s.weight is multiplied at two places and stays dense", name)
        del sites[name]
    return sites


def _site(node: ir.Node) -> LinearSite | None:
    if node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type == "MatMul":
        return _from_matmul(node)
    if node.op_type == "Gemm":
        return _from_gemm(node)
    return None


def _is_weight(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.name is not None
        and value.name.endswith(_SUFFIX)
        and value.shape is not None
        and len(value.shape) == 2
    )


def _from_matmul(node: ir.Node) -> LinearSite | None:
    x, transposed = node.inputs
    transpose = transposed.producer() if transposed is not None else None
    if x is None or transpose is None or transpose.op_type != "Transpose":
        return None
    perm = transpose.attributes.get("perm")
    weight = transpose.inputs[0]
    if not _is_weight(weight) or (perm is not None and tuple(perm.as_ints()) != (1, 0)):
        return None
    assert weight is not None
    own = len(transpose.outputs[0].uses()) == 1
    return _with_bias((transpose, node) if own else (node,), node, weight, None, transpose if own else node)


def _from_gemm(node: ir.Node) -> LinearSite | None:
    x, weight = node.inputs[0], node.inputs[1]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = (
        attributes.get("transB", 0) == 1
        and attributes.get("transA", 0) == 0
        and attributes.get("alpha", 1.0) == 1.0
        and attributes.get("beta", 1.0) == 1.0
    )
    if x is None or not plain or not _is_weight(weight):
        return None
    assert weight is not None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not is_bias(bias, weight):
        return None
    return _with_bias((node,), node, weight, bias, node)


def is_bias(value: ir.Value | None, weight: ir.Value) -> bool:
    """True if a value is an initializer [N]. weight: [N, K]."""
    if value is None or not value.is_initializer() or value.shape is None or weight.shape is None:
        return False
    return len(value.shape) == 1 and value.shape[0] == weight.shape[0]


def _with_bias(
    nodes: tuple[ir.Node, ...], product: ir.Node, weight: ir.Value, bias: ir.Value | None, reader: ir.Node
) -> LinearSite:
    assert weight.name is not None
    output = nodes[-1].outputs[0]
    readers = [use.node for use in output.uses()]
    if bias is None and len(readers) == 1 and not output.is_graph_output():
        add = readers[0]
        other = next((v for v in add.inputs if v is not output), None) if add.op_type == "Add" else None
        if other is not None and is_bias(other, weight):
            nodes, bias, output = (*nodes, add), other, add.outputs[0]
    shared = any(use.node is not reader for use in weight.uses()) or reader not in nodes
    return LinearSite(weight.name.removesuffix(_SUFFIX), nodes, product, weight, bias, output, shared)
