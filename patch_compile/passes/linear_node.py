"""Temporary node for fusions: linears with unpacked weights and all that is fused to them, until they are packed.

`Y = Linear(X, weight, …[, bias, …][, residual])` has a domain of its own and is never written to a file. Several weights
belong to a gate and its up (`gated`), or to linears that share X, whose rows `stacked_rows` stacks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklearn.masks.name_globs import shared_path
from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.packing.function import Epilogue
from patch_compile.packing.slab_kinds import stacked_rows
from patch_compile.passes.constants import add_constant

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.artifacts.plan import Node

_LOGGER = logging.getLogger(__name__)
_DOMAIN, _OP_TYPE = "patch.fusing", "Linear"
ACTIVATIONS = {"gelu": "GELU", "gelu_tanh": "GELU (tanh)", "silu": "SiLU"}


@dataclass(frozen=True)
class LinearNode:
    """Computation of one future PatchLinear.

    weights: initializers [N, K], named `<linear>.weight`; biases: initializers [N], for each linear or for none; residual:
    has the shape of Y; panel_rows: rows of each linear in a panel, None takes the plan's.
    """

    x: ir.Value
    weights: tuple[ir.Value, ...]
    biases: tuple[ir.Value, ...] = ()
    activation: str = ""
    gated: bool = False
    residual: ir.Value | None = None
    panel_rows: int | None = None

    @classmethod
    def of(cls, value: ir.Value | None) -> LinearNode | None:
        """Returns the Linear that makes a value, None if another node makes it."""
        node = value.producer() if value is not None else None
        return cls.read(node) if node is not None and _is_linear(node) else None

    @classmethod
    def stacked(cls, linears: Sequence[LinearNode], panel_rows: int) -> LinearNode:
        """Returns the node of linears without epilogues that share X."""
        weights = tuple(linear.weights[0] for linear in linears)
        biases = tuple(bias for linear in linears for bias in linear.biases)
        return cls(linears[0].x, weights, biases, panel_rows=panel_rows)

    @classmethod
    def read(cls, node: ir.Node) -> LinearNode:
        """Returns the content of a Linear node in the graph."""
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        x, *others = (value for value in node.inputs if value is not None)
        count = attributes["linears"]
        residual = others.pop() if attributes["residual"] else None
        return cls(
            x,
            tuple(others[:count]),
            tuple(others[count:]),
            attributes["activation"],
            bool(attributes["gated"]),
            residual,
            attributes["panel_rows"] or None,
        )

    def node(self) -> ir.Node:
        """Returns a new node, whose output has no name and no type yet."""
        import onnx_ir as ir

        inputs = [self.x, *self.weights, *self.biases, *filter(None, [self.residual])]
        attributes: dict[str, int | str] = {
            "linears": len(self.weights),
            "activation": self.activation,
            "gated": int(self.gated),
            "residual": int(self.residual is not None),
            "panel_rows": self.panel_rows or 0,
        }
        return ir.node(_OP_TYPE, inputs, attributes, domain=_DOMAIN, name=self.name)

    @property
    def linears(self) -> tuple[str, ...]:
        return tuple(str(weight.name).removesuffix(".weight") for weight in self.weights)

    @property
    def name(self) -> str:
        """Name of the first linear, followed by the last parts of the others: `model.layers.0.mlp.gate_proj+up_proj`."""
        first, *rest = self.linears
        return "+".join((first, *(name.removeprefix(shared_path(first, name)) for name in rest)))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(N, K) of each linear."""
        return [_shape(weight) for weight in self.weights]

    @property
    def rows(self) -> list[int]:
        """Output rows that each linear takes. A gate and its up make one entry, since Y has as many rows as either of
        them."""
        rows = [n for n, _ in self.shapes]
        return rows[:1] if self.gated else stacked_rows(rows, self.panel_rows or 1)

    @property
    def epilogue(self) -> Epilogue:
        """Operations that follow the product."""
        return Epilogue(bool(self.biases), self.activation, self.gated, self.residual is not None)

    @property
    def planned(self) -> Node:
        """The node as the plan has it."""
        from patch_compile.artifacts.plan import Node

        return Node.model_validate(
            {
                "name": self.name,
                "linears": self.linears,
                "activation": self.activation,
                "gated": self.gated,
                "residual": self.residual is not None,
            }
        )


def linear_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yields the Linear nodes of a graph in order. The graph may change meanwhile; nodes removed by then are skipped."""
    return (node for node in list(graph) if _is_linear(node) and node.graph is graph)


def insert_node(
    graph: ir.Graph,
    place: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    *,
    behind: bool = False,
    **attributes: int | Sequence[int],
) -> ir.Value:
    """Insert a node before `place`, or behind it, and return its output, which has the node's name."""
    import onnx_ir as ir

    node = ir.node(op_type, list(inputs), attributes=attributes, name=name)
    output = node.outputs[0]
    output.name, output.type = name, ir.TensorType(dtype)
    (graph.insert_after if behind else graph.insert_before)(place, node)
    return output


def insert_cast(
    graph: ir.Graph, place: ir.Node, value: ir.Value, name: str, dtype: ir.DataType, *, behind: bool = False
) -> ir.Value:
    """Insert a Cast of a value before `place`, or behind it, and return its output, which has the Cast's name."""
    made = insert_node(graph, place, "Cast", [value], name, dtype, behind=behind, to=int(dtype))
    made.shape = value.shape
    return made


def insert_rounding(
    graph: ir.Graph, place: ir.Node, value: ir.Value, scale: float, name: str, *, behind: bool = False
) -> ir.Value:
    """Insert QuantizeLinear and DequantizeLinear before `place`, or behind it.

    Returns the nearest of -128 … 127 times the scale, in the value's type.
    """
    import numpy as np
    import onnx_ir as ir

    assert value.dtype is not None

    int8 = ir.DataType.INT8
    step = add_constant(graph, f"{name}/scale", np.asarray(scale, value.dtype.numpy()))
    # From opset 21 on, the attribute says the type. ONNX Runtime 1.32 refuses graphs with a zero point of int8 there.
    by_attribute = graph.opset_imports[""] >= 21
    zero = [] if by_attribute else [add_constant(graph, f"{name}/zero", np.zeros((), np.int8))]
    stated = {"output_dtype": int(int8)} if by_attribute else {}
    inputs, called = [value, step, *zero], f"{name}/quantize"
    integers = insert_node(graph, place, "QuantizeLinear", inputs, called, int8, behind=behind, **stated)
    node = integers.producer() if behind else place
    assert node is not None
    inputs, called = [integers, step], f"{name}/dequantize"
    made = insert_node(graph, node, "DequantizeLinear", inputs, called, value.dtype, behind=behind)
    integers.shape = made.shape = value.shape
    return made


def take_over(value: ir.Value, made: ir.Value) -> None:
    """Replace a value by `made`, a new value of the graph, which takes over its name, shape, type and readers."""
    import onnx_ir as ir

    made.name, made.shape, made.type = value.name, value.shape, value.type
    ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)


def move_readers(value: ir.Value, uses: Iterable[Any], made: ir.Value) -> None:
    """Let readers of a value, and the graph's output if it is one, read `made`, which is computed from the value.

    uses: uses of the value before `made` read it.
    """
    for use in uses:
        use.node.replace_input_with(use.idx, made)
    if value.is_graph_output():
        assert made.graph is not None
        made.name, value.name = value.name, f"{value.name}/exact"
        outputs = made.graph.outputs
        outputs[outputs.index(value)] = made


def replace(nodes: Iterable[ir.Node], last: ir.Node, linear: LinearNode) -> None:
    """Replace `nodes` and `last` by a Linear that makes the output of `last`."""
    graph, node = last.graph, linear.node()
    assert graph is not None
    graph.insert_before(last, node)
    take_over(last.outputs[0], node.outputs[0])
    graph.remove((*nodes, last), safe=True)


def refuse(linear: str, what: str, why: str) -> None:
    """Log, for debugging, why a linear is not fused with something."""
    _LOGGER.debug("%s is not fused with %s: %s", linear, what, why)


def reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """Returns the first standard operation of this type that reads a value, in the value's own graph."""
    standard = (n for n in value.consumers() if n.domain in STANDARD_DOMAINS and n.graph is value.graph)
    return next((n for n in standard if n.op_type == op_type), None)


def why_open(value: ir.Value, allowed: Collection[ir.Node]) -> str:
    """Returns the reason why a value is needed outside its `allowed` readers, "" if it is not."""
    if value.is_graph_output():
        return "a value in between is an output of the graph"
    others = [node for node in value.consumers() if node not in allowed]
    return f"{others[0].op_type} {others[0].name!r} reads a value in between too" if others else ""


def _is_linear(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (_DOMAIN, _OP_TYPE)


def _shape(weight: ir.Value) -> tuple[int, int]:
    assert weight.shape is not None
    n, k = weight.shape
    assert isinstance(n, int) and isinstance(k, int)
    return n, k
