"""Repeat one decoder layer instead of tracing all of them: tracing costs a second a layer, copying nothing.

The proof is made on every export: three layers are traced, and the third must be the second node for node, with
the layer number in its names moved by one and its input moved from the first layer's output to the second's. What
holds from 1 to 2 then holds from 2 to 3, because tracing runs the same Python for every layer of one kind.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from patch_compile.export.names import SCOPE, layer_of, scope_of

__all__ = ["NotRepeatableError", "repeat_last_layer"]

_NUMBERED = re.compile(r"^(model\.layers|past_key_values|present)\.(\d+)(?=\.|$)")

Values = dict[ir.Value, ir.Value]


class NotRepeatableError(Exception):
    """Two layers that should be alike are not; the message says where."""


def repeat_last_layer(model: ir.Model, traced: int, layers: int) -> None:
    """Extend a model traced with `traced` (>= 3) layers to `layers` of them, in place.

    Raises:
        NotRepeatableError: the last two traced layers differ; the model is unchanged.
    """
    graph = model.graph
    blocks = [[n for n in graph if layer_of(scope_of(n)) == i] for i in range(traced)]
    following = _prove_alike(blocks[-3], blocks[-2], blocks[-1], traced - 2)
    original = block = blocks[-1]
    tail = _uses_outside(original, graph)
    for layer in range(traced, layers):
        block, following = _copy_block(graph, block, following, layer)
    ends = dict(zip(_outputs(original), _outputs(block), strict=True))
    for node, index in tail:
        value = node.inputs[index]
        assert value is not None
        node.replace_input_with(index, ends[value])


def _outputs(block: Sequence[ir.Node]) -> list[ir.Value]:
    return [value for node in block for value in node.outputs]


def _prove_alike(
    before: Sequence[ir.Node], first: Sequence[ir.Node], second: Sequence[ir.Node], layer: int
) -> Values:
    """Return each value of `first` (layer number `layer`) with its counterpart in `second`."""
    if len(first) != len(second):
        raise NotRepeatableError(f"layers {layer} and {layer + 1} have {len(first)} and {len(second)} nodes")
    following = dict(zip(_outputs(first), _outputs(second), strict=True))
    earlier, carried = set(_outputs(before)), Values()
    for a, b in zip(first, second, strict=True):
        if not _same_operation(a, b):
            raise NotRepeatableError(f"{a.name} of layer {layer} is not {b.name} of layer {layer + 1}")
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if not _same_source(x, y, following, earlier, carried):
                raise NotRepeatableError(
                    f"{a.name} and {b.name} read different values in layers {layer} and {layer + 1}"
                )
    return following


def _same_operation(a: ir.Node, b: ir.Node) -> bool:
    return (
        a.op_identifier() == b.op_identifier()
        and len(a.inputs) == len(b.inputs)
        and [(v.type, v.shape) for v in a.outputs] == [(v.type, v.shape) for v in b.outputs]
        and _same_attributes(a.attributes, b.attributes)
    )


def _same_attributes(a: Mapping[str, ir.Attr], b: Mapping[str, ir.Attr]) -> bool:
    return a.keys() == b.keys() and all(_same_attribute(a[name], b[name]) for name in a)


def _same_attribute(a: ir.Attr, b: ir.Attr) -> bool:
    if a.type != b.type:
        return False
    if a.type == ir.AttributeType.TENSOR:
        x, y = a.as_tensor(), b.as_tensor()
        return x.dtype == y.dtype and np.array_equal(x.numpy(), y.numpy())
    return bool(a.value == b.value)


def _same_source(
    x: ir.Value | None, y: ir.Value | None, following: Values, earlier: set[ir.Value], carried: Values
) -> bool:
    if x is None or y is None:
        return x is y
    if x in following:  # computed in the layer itself
        return following[x] is y
    if x is y:  # shared by all layers: mask, rotary tables; of what the first layer computed, constants only
        producer = x.producer()
        return x not in earlier or (producer is not None and producer.op_type == "Constant")
    if x in earlier and y in following:  # handed from layer to layer; the same one at every place
        return carried.setdefault(x, y) is y
    return x.name is not None and x.producer() is None and y.name == _moved(x.name, 1)


def _moved(name: str, by: int) -> str:
    return _NUMBERED.sub(lambda match: f"{match[1]}.{int(match[2]) + by}", name)


def _uses_outside(block: Sequence[ir.Node], graph: ir.Graph) -> list[tuple[ir.Node, int]]:
    inside = set(block)
    uses = [use for value in _outputs(block) for use in value.uses()]
    return [(use.node, use.idx) for use in uses if use.node not in inside and use.node.graph is graph]


def _copy_block(
    graph: ir.Graph, block: Sequence[ir.Node], following: Values, layer: int
) -> tuple[list[ir.Node], Values]:
    """Append a copy of `block` as layer `layer`; `following` maps the block before it to `block`."""
    copies: list[ir.Node] = []
    moved = Values()
    for node in block:
        inputs = [_moved_input(graph, value, moved, following) for value in node.inputs]
        copy = _copy_node(node, inputs, layer)
        moved.update(zip(node.outputs, copy.outputs, strict=True))
        copies.append(copy)
    graph.insert_after(block[-1], copies)
    # Key before value, as in the traced layers: the order of the outputs, not that of the nodes.
    graph.outputs.extend([moved[value] for value in list(graph.outputs) if value in moved])
    return copies, moved


def _moved_input(
    graph: ir.Graph, value: ir.Value | None, moved: Values, following: Values
) -> ir.Value | None:
    if value is None:
        return None
    if value in moved or value in following:
        return moved.get(value) or following[value]
    assert value.name is not None
    name = _moved(value.name, 1)
    if value.producer() is not None or name == value.name:
        return value
    if value.is_initializer():
        return graph.initializers.get(name) or _new_initializer(graph, value, name)
    existing = next((v for v in graph.inputs if v.name == name), None)
    return existing or _new_input(graph, value, name)


def _new_initializer(graph: ir.Graph, like: ir.Value, name: str) -> ir.Value:
    value = ir.Value(name=name, type=like.type, shape=like.shape)
    graph.initializers[name] = value
    return value


def _new_input(graph: ir.Graph, like: ir.Value, name: str) -> ir.Value:
    value = ir.Value(name=name, type=like.type, shape=like.shape)
    graph.inputs.append(value)
    return value


def _copy_node(node: ir.Node, inputs: Sequence[ir.Value | None], layer: int) -> ir.Node:
    outputs = [ir.Value(name=_output_name(v, layer), type=v.type, shape=v.shape) for v in node.outputs]
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        overload=node.overload,
        outputs=outputs,
        version=node.version,
        name=f"{node.name}.{layer}",
        metadata_props={SCOPE: _moved(scope_of(node), 1)},
    )


def _output_name(value: ir.Value, layer: int) -> str:
    assert value.name is not None
    return _moved(value.name, 1) if value.is_graph_output() else f"{value.name}.{layer}"
