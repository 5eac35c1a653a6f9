"""Finds the block of layers that repeats, and copies it instead of tracing all layers.

Tracing takes a second per layer, copying almost none.

A block is one layer, or one period of a model that mixes kinds of layers (Gemma).

Every export checks that the blocks repeat. Three blocks are traced. The third must equal the second node for node, with
three differences: layer numbers in names are higher by one block, it reads the output of the second block instead of
the first, and sizes that only a run tells, such as the number of an expert's tokens, have names of their own. Later
blocks then follow the same rule, because tracing runs the same Python for every layer of one kind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from masklearn.model.architectures import Architecture
from masklearn.model.models import auto_class
from masklearn.model.pretrained import build_model
from masklearn.model.structure import per_layer
from patch_compile.onnx_export.names import SCOPE, scope_of

TRACED_BLOCKS = 3
"""Periods of blocks that are traced. The first block differs: it also holds constants that later blocks share. The second is
the pattern, and the third shows that the pattern repeats."""

Values = dict[ir.Value, ir.Value]

_SIZE = re.compile(r"\bu\d+(_\d+)?\b")


class PairedSizes:
    """Pairs each size of one block with a size of another block."""

    def __init__(self) -> None:
        self._pairs: dict[str, str] = {}
        self._back: dict[str, str] = {}

    def pair(self, a: ir.Shape | None, b: ir.Shape | None) -> bool:
        """Returns True if two shapes are the same except for the names of sizes, and the names fit the pairs so far."""
        if a is None or b is None:
            return a is b
        return len(a) == len(b) and all(self._pair(str(x), str(y)) for x, y in zip(a, b, strict=True))

    def _pair(self, a: str, b: str) -> bool:
        names = zip(_names(a), _names(b), strict=False)
        return _SIZE.sub("u", a) == _SIZE.sub("u", b) and all(
            self._pairs.setdefault(x, y) == y and self._back.setdefault(y, x) == x for x, y in names
        )


def moved_shape(shape: ir.Shape | None, first: int) -> ir.Shape | None:
    """Returns the shape of a value of the block that starts at layer `first`: its sizes have names of this block."""
    if shape is None or not any(_names(str(dim)) for dim in shape):
        return shape
    return ir.Shape([_moved(dim, first) for dim in shape])


def _moved(dim: int | ir.SymbolicDim, first: int) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(_SIZE.sub(lambda match: f"{match[0].partition('_')[0]}_{first}", dim.value))


def _names(text: str) -> list[str]:
    return [match[0] for match in _SIZE.finditer(text)]


class LayerNames:
    """Layer numbers in the names of modules, weights and caches. blocks: path of the layers, such as "model.layers"."""

    def __init__(self, blocks: str) -> None:
        self._layer = re.compile(rf"^{re.escape(blocks)}\.(\d+)(?=\.|$)")
        self._numbered = re.compile(rf"^({re.escape(blocks)}|past_key_values|present)\.(\d+)(?=\.|$)")

    def layer_of(self, scope: str) -> int | None:
        """Returns the layer number of a module's path, None outside of the layers."""
        match = self._layer.match(scope)
        return int(match[1]) if match else None

    def is_numbered(self, value: ir.Value) -> bool:
        """True if the value belongs to one layer, judged by its name."""
        return value.name is not None and self._numbered.match(value.name) is not None

    def moved(self, name: str, by: int) -> str:
        """Returns the name with a layer number that is higher by `by`; the name itself outside of the layers."""
        return self._numbered.sub(lambda match: f"{match[1]}.{int(match[2]) + by}", name)


@dataclass(frozen=True)
class BlockLayers:
    """The layers of a block: numbers `first` … `first + period - 1`. names: reads and changes layer numbers in names."""

    first: int
    period: int
    names: LayerNames

    def __str__(self) -> str:
        """Names the layers of this block and of the next block, for an error message."""
        ends = (range(n, n + self.period) for n in (self.first, self.first + self.period))
        names = (str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ends)
        return f"layers {' and '.join(names)}"


class NotRepeatableError(Exception):
    """Two blocks differ. The message names the first difference."""


def repeat_last_block(
    model: ir.Model, traced: int, layers: int, period: int = 1, blocks: str = "model.layers"
) -> None:
    """Extend a model of `traced` layers to `layers` layers by repeating its last `period` layers, in place.

    traced: at least 3 · period; `layers - traced` is a multiple of `period`; blocks: module path of the layers.

    Raises NotRepeatableError, and leaves the model unchanged, if the last two blocks differ.
    """
    if traced < TRACED_BLOCKS * period or (layers - traced) % period:
        raise ValueError(f"{traced} traced layers can't be repeated to {layers} by {period} at a time")
    graph = model.graph
    names = LayerNames(blocks)
    before, pattern, proof = _last_blocks(graph, BlockLayers(traced - TRACED_BLOCKS * period, period, names))
    following = _prove_alike(before, pattern, proof, BlockLayers(traced - 2 * period, period, names))
    original = block = proof
    inside, uses = set(original), [use for value in _outputs(original) for use in value.uses()]
    tail = [use for use in uses if use.node not in inside and use.node.graph is graph]
    for first in range(traced, layers, period):
        block, following = _copy_block(graph, block, following, BlockLayers(first, period, names))
    ends = dict(zip(_outputs(original), _outputs(block), strict=True))
    for node, index in tail:
        value = node.inputs[index]
        assert value is not None
        node.replace_input_with(index, ends[value])
    _move_results(graph, ends, names)


def _last_blocks(graph: ir.Graph, numbers: BlockLayers) -> list[list[ir.Node]]:
    """Returns the nodes of the last three blocks, in order. numbers: layers of the first of them."""
    blocks: list[list[ir.Node]] = [[], [], []]
    for node in graph:
        layer = numbers.names.layer_of(scope_of(node))
        if layer is not None and layer >= numbers.first:
            blocks[(layer - numbers.first) // numbers.period].append(node)
    return blocks


def _outputs(block: Sequence[ir.Node]) -> list[ir.Value]:
    return [value for node in block for value in node.outputs]


def _move_results(graph: ir.Graph, ends: Values, names: LayerNames) -> None:
    """Move graph outputs of the last traced block (an encoder's hidden states) to the last copy."""
    for place, value in enumerate(graph.outputs):
        if value in ends and not names.is_numbered(value):
            end = ends[value]
            value.name, end.name = end.name, value.name
            graph.outputs[place] = end


def _prove_alike(
    before: Sequence[ir.Node], first: Sequence[ir.Node], second: Sequence[ir.Node], numbers: BlockLayers
) -> Values:
    """Check that two blocks are alike. Returns each value of `first` with its counterpart in `second`.

    numbers: layers of `first`. Raises NotRepeatableError if the blocks differ.
    """
    if len(first) != len(second):
        raise NotRepeatableError(f"{numbers} have {len(first)} and {len(second)} nodes")
    following = dict(zip(_outputs(first), _outputs(second), strict=True))
    earlier, carried, sizes = set(_outputs(before)), Values(), PairedSizes()
    for a, b in zip(first, second, strict=True):
        if not _same_operation(a, b, sizes):
            raise NotRepeatableError(f"{a.name} is not {b.name} in {numbers}")
        for x, y in zip(a.inputs, b.inputs, strict=True):
            if not _same_source(x, y, numbers, following, earlier, carried):
                raise NotRepeatableError(f"{a.name} and {b.name} read different values in {numbers}")
    return following


def _same_operation(a: ir.Node, b: ir.Node, sizes: PairedSizes) -> bool:
    return (
        a.op_identifier() == b.op_identifier()
        and len(a.inputs) == len(b.inputs)
        and [v.type for v in a.outputs] == [v.type for v in b.outputs]
        and all(sizes.pair(x.shape, y.shape) for x, y in zip(a.outputs, b.outputs, strict=True))
        and a.attributes.keys() == b.attributes.keys()
        and all(_same_attribute(a.attributes[name], b.attributes[name]) for name in a.attributes)
    )


def _same_attribute(a: ir.Attr, b: ir.Attr) -> bool:
    if a.type != b.type:
        return False
    if a.type == ir.AttributeType.TENSOR:
        return _same_tensor(a.as_tensor(), b.as_tensor())
    return bool(a.value == b.value)


def _same_tensor(x: ir.TensorProtocol, y: ir.TensorProtocol) -> bool:
    return x.dtype == y.dtype and np.array_equal(x.numpy(), y.numpy())


def _same_source(
    x: ir.Value | None,
    y: ir.Value | None,
    numbers: BlockLayers,
    following: Values,
    earlier: set[ir.Value],
    carried: Values,
) -> bool:
    """Returns True if an input `x` of the first block and `y` of the second are counterparts.

    earlier: values of the block before the first; carried: values that blocks pass on, with the counterparts found so far.
    """
    if x is None or y is None:
        return x is y
    if x in following:  # computed in the block
        return following[x] is y
    if x is y:  # shared by all blocks: mask, rotary tables, and constants and sizes of the first block
        return x not in earlier or _is_size(x, earlier)
    if x in earlier and y in following:  # passed from block to block: the same counterpart for every use
        return carried.setdefault(x, y) is y
    if x.producer() is not None or x.name is None:
        return False
    if x.const_value is not None:  # a tensor that the layer's Python makes of numbers: no weight
        return y.const_value is not None and _same_tensor(x.const_value, y.const_value)
    return y.name == numbers.names.moved(x.name, numbers.period)


def _is_size(value: ir.Value, earlier: set[ir.Value]) -> bool:
    """True for a constant, and for a number that a block computes from constants and from sizes of what it reads.

    torch computes such a number once, in the first block that uses it: the number of tokens times the number of experts of
    each token, for example.
    """
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant":
        return True
    whole = value.dtype == ir.DataType.INT64 and value.shape is not None and value.shape.rank() == 0
    sources = producer.inputs if producer is not None else ()
    return whole and (
        value not in earlier or all(source is not None and _is_size(source, earlier) for source in sources)
    )


def _copy_block(
    graph: ir.Graph, block: Sequence[ir.Node], following: Values, numbers: BlockLayers
) -> tuple[list[ir.Node], Values]:
    """Append a copy of `block` as the layers `numbers`. Returns its nodes, and its value for each value of `block`.

    following: maps the values of the block before `block` to the values of `block`.
    """
    copies: list[ir.Node] = []
    moved = Values()
    for node in block:
        inputs = [_moved_input(graph, value, numbers, moved, following) for value in node.inputs]
        copy = _copy_node(node, inputs, numbers)
        moved.update(zip(node.outputs, copy.outputs, strict=True))
        copies.append(copy)
    graph.insert_after(block[-1], copies)
    # In the order of the graph outputs (key before value), which is not the order of the nodes.
    graph.outputs.extend(
        [moved[v] for v in list(graph.outputs) if v in moved and numbers.names.is_numbered(v)]
    )
    return copies, moved


def _moved_input(
    graph: ir.Graph, value: ir.Value | None, numbers: BlockLayers, moved: Values, following: Values
) -> ir.Value | None:
    if value is None:
        return None
    if value in moved or value in following:
        return moved.get(value) or following[value]
    assert value.name is not None
    name = numbers.names.moved(value.name, numbers.period)
    if value.producer() is not None or value.const_value is not None or name == value.name:
        return value
    existing = graph.initializers.get(name) or next((v for v in graph.inputs if v.name == name), None)
    if existing is not None:
        return existing
    copy = ir.Value(name=name, type=value.type, shape=value.shape)
    if value.is_initializer():
        graph.initializers[name] = copy
    else:
        graph.inputs.append(copy)
    return copy


def _copy_node(node: ir.Node, inputs: Sequence[ir.Value | None], numbers: BlockLayers) -> ir.Node:
    outputs = [
        ir.Value(name=_output_name(v, numbers), type=v.type, shape=moved_shape(v.shape, numbers.first))
        for v in node.outputs
    ]
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        overload=node.overload,
        outputs=outputs,
        version=node.version,
        name=f"{node.name}.{numbers.first}",
        metadata_props={SCOPE: numbers.names.moved(scope_of(node), numbers.period)},
    )


def _output_name(value: ir.Value, numbers: BlockLayers) -> str:
    assert value.name is not None
    numbered = value.is_graph_output() and numbers.names.is_numbered(value)
    return numbers.names.moved(value.name, numbers.period) if numbered else f"{value.name}.{numbers.first}"


_PLAIN = (bool, int, float, str, type(None))


def repetition(config: Any, architecture: Architecture) -> tuple[int, int]:
    """Returns (first, period): from layer `first` on, each layer is of the same kind as the layer `period` layers before.

    Layers are of one kind if their modules have the same classes, shapes and settings, and the lists of the config have the
    same values for them. Of all such pairs, the pair with the smallest first + 3 · period is returned, since `export_model`
    traces three periods.
    """
    kinds = _kinds(config, architecture)
    layers = len(kinds)
    pairs = ((first, period) for period in range(1, layers + 1) for first in range(layers))
    fitting = (pair for pair in pairs if kinds[sum(pair) :] == kinds[pair[0] : -pair[1]])
    return min(fitting, key=lambda pair: (pair[0] + TRACED_BLOCKS * pair[1], pair[1]))


def _kinds(config: Any, architecture: Architecture) -> list[Any]:
    """Returns a description of each layer. Layers of one kind have equal descriptions."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=True):
        model = build_model(auto_class(architecture), config)
    lists = per_layer(config).values()
    blocks: Any = model.get_submodule(architecture.blocks)
    return [(_signature(block, i), [str(values[i]) for values in lists]) for i, block in enumerate(blocks)]


def _signature(block: nn.Module, layer: int) -> list[Any]:
    return [
        (
            name,
            type(module).__qualname__,
            [(part, tuple(tensor.shape)) for part, tensor in module.named_parameters(recurse=False)],
            [
                (key, value)
                for key, value in sorted(vars(module).items())
                # The number of a module's layer differs in each layer.
                if isinstance(value, _PLAIN)
                and ("layer" not in key or isinstance(value, bool) or value != layer)
            ],
        )
        for name, module in block.named_modules()
    ]
