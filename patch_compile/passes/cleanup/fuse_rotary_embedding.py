"""Fuses rotary position embedding into a single op."""

import onnx_ir as ir

from patch_compile.passes.constants import scalar_of
from patch_compile.passes.linear_node import take_over

_OPSET = 23  # RotaryEmbedding
_ELEMENTWISE = ("Cast", "Cos", "Mul", "Sin")


class FuseRotaryEmbeddingPass(ir.passes.InPlacePass):
    """`x·cos + rotate_half(x)·sin` -> `RotaryEmbedding(x, cos, sin)`.

    1. The opset must be 23 or later; under an earlier opset the graph stays unchanged.
    2. x must be [batch, heads, sequence, head_dim], and rotate_half(x) = Concat(-x[d/2:], x[:d/2]).
    3. cos and sin must be elementwise functions of Concat(f, f). The op takes half of each, computed on f.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every Add that is a rotary embedding."""
        if model.graph.opset_imports.get("", 0) < _OPSET:
            return ir.passes.PassResult(model, modified=False)
        halves: dict[ir.Value, ir.Value] = {}
        modified = False
        for node in list(model.graph):
            operands = _match(node)
            if operands is None:
                continue
            x, cos, sin = operands
            half_cos, half_sin = _halve(cos, halves), _halve(sin, halves)
            if half_cos is None or half_sin is None:
                continue
            _replace(model.graph, node, x, half_cos, half_sin)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _match(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Returns (x, cos, sin) of a rotary embedding. cos and sin: [batch, sequence, head_dim]."""
    if node.op_type != "Add":
        return None
    straight, rotated = (_producer(value, "Mul") for value in node.inputs)
    if straight is None or rotated is None:
        return None
    x, half = straight.inputs[0], _producer(rotated.inputs[0], "Concat")
    cos, sin = _table(straight.inputs[1]), _table(rotated.inputs[1])
    if x is None or half is None or cos is None or sin is None or not _rotates_half(half, x):
        return None
    return x, cos, sin


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def _table(value: ir.Value | None) -> ir.Value | None:
    """Returns a table without the axis for the heads: [batch, 1, sequence, d] -> [batch, sequence, d]."""
    node = _producer(value, "Unsqueeze")
    return node.inputs[0] if node is not None and scalar_of(node.inputs[1]) == 1 else None


def _rotates_half(concat: ir.Node, x: ir.Value) -> bool:
    if x.shape is None or len(x.shape) != 4 or len(concat.inputs) != 2:
        return False
    size = x.shape[3]
    negated = _producer(concat.inputs[0], "Neg")
    if not isinstance(size, int) or size % 2 or negated is None:
        return False
    return (
        concat.attributes["axis"].as_int() in (-1, 3)
        and _slice_bounds(negated.inputs[0], x, size) == (size // 2, size)
        and _slice_bounds(concat.inputs[1], x, size) == (0, size // 2)
    )


def _slice_bounds(value: ir.Value | None, x: ir.Value, size: int) -> tuple[int, int] | None:
    """Returns (start, end) of a slice of x along its last axis with step 1."""
    node = _producer(value, "Slice")
    if node is None or node.inputs[0] is not x or len(node.inputs) < 4:
        return None
    start, end, axis = (scalar_of(i) for i in node.inputs[1:4])
    step = scalar_of(node.inputs[4]) if len(node.inputs) > 4 else 1
    if start is None or end is None or axis not in (3, -1) or step != 1:
        return None
    return int(start), min(int(end), size)


def _halve(value: ir.Value, halves: dict[ir.Value, ir.Value]) -> ir.Value | None:
    """Rebuild an elementwise function of Concat(f, f) on f. Memoized in `halves`, because all layers share the tables."""
    if value in halves:
        return halves[value]
    node = value.producer()
    if node is None or node.graph is None:
        return None
    if node.op_type == "Concat":
        alike = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return node.inputs[0] if alike and node.attributes["axis"].as_int() in (-1, 2) else None
    if node.op_type not in _ELEMENTWISE or any(scalar_of(v) is None for v in node.inputs[1:]):
        return None
    source = node.inputs[0]
    half = _halve(source, halves) if source is not None else None
    if half is None:
        return None
    halves[value] = _on_half(node, half)
    return halves[value]


def _on_half(node: ir.Node, half: ir.Value) -> ir.Value:
    output = node.outputs[0]
    assert node.graph is not None and half.shape is not None
    copy = ir.node(
        node.op_type,
        [half, *node.inputs[1:]],
        attributes=dict(node.attributes.items()),
        outputs=[ir.Value(name=f"{output.name}:half", type=output.type, shape=half.shape)],
        name=f"{node.name}:half",
        metadata_props=dict(node.metadata_props),
    )
    node.append(copy)
    return copy.outputs[0]


def _replace(graph: ir.Graph, node: ir.Node, x: ir.Value, cos: ir.Value, sin: ir.Value) -> None:
    fused = ir.node(
        "RotaryEmbedding",
        [x, cos, sin],
        attributes={"interleaved": 0},
        # "model.layers.0.self_attn/Add_0" -> "model.layers.0.self_attn/RotaryEmbedding_0"
        name=(node.name or "").replace("/Add", "/RotaryEmbedding"),
        metadata_props=dict(node.metadata_props),
    )
    graph.insert_before(node, fused)
    take_over(node.outputs[0], fused.outputs[0])
    graph.remove(node, safe=True)
