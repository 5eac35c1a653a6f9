"""Finds the activation that reads a value, in the forms in which exporters write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.passes.linear_node import reader, why_open

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Activation", "find_activation"]

_GELU = {"none": "gelu", "tanh": "gelu_tanh"}  # kind by the attribute `approximate`


@dataclass(frozen=True)
class Activation:
    """Activation of a value.

    kind: its name in PatchLinear; nodes: nodes that compute it, the last one its output; open: the reason why it can't be
    fused, because another node reads a value in between, else empty.
    """

    kind: str
    nodes: tuple[ir.Node, ...]
    open: str

    @property
    def output(self) -> ir.Value:
        """Output of the activation, [..., N]."""
        return self.nodes[-1].outputs[0]


def find_activation(x: ir.Value) -> Activation | None:
    """Returns the activation of `x`, or None: GELU (exact or by tanh) as Gelu(x), or SiLU as Mul(x, Sigmoid(x))."""
    kind, nodes = _silu(x) or _gelu(x) or ("", ())
    if not nodes:
        return None
    between = [x, *(node.outputs[0] for node in nodes[:-1])]
    return Activation(kind, nodes, next(filter(None, (why_open(value, nodes) for value in between)), ""))


def _gelu(x: ir.Value) -> tuple[str, tuple[ir.Node, ...]] | None:
    gelu = reader(x, "Gelu")
    if gelu is None:
        return None
    approximate = gelu.attributes.get("approximate")
    return _GELU[approximate.as_string() if approximate else "none"], (gelu,)


def _silu(x: ir.Value) -> tuple[str, tuple[ir.Node, ...]] | None:
    sigmoid = reader(x, "Sigmoid")
    product = reader(sigmoid.outputs[0], "Mul") if sigmoid else None
    if sigmoid is None or product is None or {*product.inputs} != {x, sigmoid.outputs[0]}:
        return None
    return "silu", (sigmoid, product)
