"""Finds the linears of an ONNX graph of any origin, and the reasons why its other products stay dense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from masklearn.masks.tiles import GROUP
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.passes.linears import (
    SUFFIX,
    FoundLinears,
    Linear,
    Refusal,
    linear_name,
    node_name,
    reserved_names,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
# fmt: off
_INTEGER_PRODUCTS = frozenset((
    "MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "MatMulNBits", "MatMulBnb4", "QGemm", "QAttention",
))
_FUSED = frozenset(("FusedMatMul", "FusedGemm", "FusedConv", "Attention", "GemmFastGelu"))  # of com.microsoft
_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
# fmt: on
PASSED_ON = ("Identity", "Cast", "Transpose")
"""Operators that may stand between a constant and the product that reads it."""
_COMPUTED = "its weight is computed at run time"
QDQ = ("DequantizeLinear", "QuantizeLinear")
_QUANTIZING = (*QDQ, "DynamicQuantizeLinear")


@dataclass(frozen=True)
class _Product:
    """Result of the matchers: a constant weight in the layout that the product reads, [N, K], or [K, N] if transposed."""

    weight: _StoredConstant
    transposed: bool
    shape: tuple[int, int]
    bias: ir.Value | None = None
    spatial: int = 0


def find_linears(model: ir.Model, *, quantised: bool = False) -> FoundLinears:
    """Find every linear of the main graph.

    1. MatMul(X, W) with W [K, N]. If only an Add of N constants reads its output, that is the bias.
    2. Gemm(X, W, b) with alpha = beta = 1 and X not transposed.
    3. Conv(X, W, b) with W [N, K, 1, …], stride 1, one group and no padding.

    W may be behind Transpose, Cast and Identity. `skipped` lists products that look like a linear but are not: the weight is
    not constant or has other readers (one mask could not serve both), K is not a multiple of 4, or the node is in a
    subgraph.

    Raises PatchCompileError for a quantized model (Q/DQ before a weight, integer products). quantised: finds linears whose
    int8 weights are behind DequantizeLinear too, and skips other quantized products.
    """
    found, reserved = FoundLinears(), reserved_names(model.graph)
    for node, owner in _nodes(model.graph):
        if node.op_type in _INTEGER_PRODUCTS:
            if not quantised:
                raise _quantized(node, "It multiplies integers")
            found.add(node, Refusal("it multiplies integers without Q/DQ"))
        elif node.domain == "com.microsoft" and node.op_type in _FUSED:
            found.add(node, Refusal("an optimizer fused it: give the model before ONNX Runtime's optimizer"))
        elif node.domain in STANDARD_DOMAINS and node.op_type in _RECURRENT:
            found.add(node, Refusal("a recurrent operator holds its weights in itself"))
        elif node.domain in STANDARD_DOMAINS and node.op_type in _MATCHERS:
            found.add(node, _linear(node, owner, reserved | found.linears.keys(), quantised))
    return found


def linears_of_file(path: Path, model: ir.Model, *, quantised: bool = False) -> FoundLinears:
    """Returns `find_linears` of the model at `path`. Raises PatchCompileError if it has none."""
    found = find_linears(model, quantised=quantised)
    if not found.linears:
        raise PatchCompileError(
            f"{path} has no linear to prune",
            _counted(found.skipped) or "It holds no MatMul, Gemm or Conv.",
            "Give a model with a MatMul, Gemm or 1×1 Conv of constant weight, K a multiple of 4.",
        )
    return found


def lowerable_linears(model: ir.Model) -> dict[str, Linear]:
    """Returns the linears that lowering passes can replace, by the names of their weights, in graph order.

    Products with int8 weights, which lowering has made, are none of them.
    """
    ready = [linear for linear in find_linears(model, quantised=True).linears.values() if linear.lowerable]
    names = [str(linear.weight.name).removesuffix(SUFFIX) for linear in ready]
    return {name: replace(linear, name=name) for name, linear in zip(names, ready, strict=True)}


def _nodes(graph: ir.Graph, owner: str = "") -> Iterator[tuple[ir.Node, str]]:
    """Yield every node, with a description of the node whose subgraph contains it."""
    import onnx_ir as ir

    for node in graph:
        yield node, owner
        for attribute in node.attributes.values():
            graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else []
            if attribute.type == ir.AttributeType.GRAPHS:
                graphs = [*attribute.as_graphs()]
            for subgraph in graphs:
                yield from _nodes(subgraph, f"the {attribute.name} of {node.op_type} {node_name(node)!r}")


def _linear(node: ir.Node, owner: str, taken: Container[str], quantised: bool) -> Linear | Refusal:
    product = _MATCHERS[node.op_type](node, quantised)
    if isinstance(product, Refusal):
        return product
    reason = _why_dense(node, owner, product)
    if reason:
        return reason
    nodes: tuple[ir.Node, ...] = (node,)
    bias = product.bias
    if node.op_type == "MatMul" and (added := _added_bias(node, product.shape[0], quantised)):
        nodes, bias = (node, added[0]), added[1]
    weight, dtype = product.weight.initializer, product.weight.dtype
    assert dtype is not None
    name = linear_name(weight, node, taken)
    form = product.transposed, product.shape, dtype, bias, product.spatial, product.weight.dequantize
    return Linear(name, nodes, weight, *form)


def _why_dense(node: ir.Node, owner: str, product: _Product) -> Refusal | None:
    """Returns the reason why a product with a constant weight stays dense; None if it does not."""
    weight, dtype, x = product.weight, product.weight.dtype, node.inputs[0]
    stored = weight.initializer.dtype
    assert stored is not None
    if weight.dequantize is not None:
        integers = weight.dequantize.inputs[0]
        stored = integers.dtype if integers is not None else None
        if stored is None or stored.name != "INT8":
            words = (
                f"its Q/DQ has {stored.name.lower() if stored else 'an unknown type'}, and only int8 is read"
            )
            return Refusal(words)
    elif stored.is_integer():
        raise _quantized(node, f"Its weight is {stored.name.lower()}")
    if dtype is None or dtype.name not in _FLOATS:
        return Refusal(f"it computes in {dtype.name.lower() if dtype is not None else 'an unknown type'}")
    if owner:
        words = "it lies in {}, and only the main graph is compiled"
        return Refusal(words.format(owner), words.format("a subgraph"))
    if weight.reader:
        words = "its weight is also read by {}: one packed form can't serve both"
        return Refusal(words.format(weight.reader), words.format("another node"))
    if min(product.shape) < 1:
        return Refusal(f"its weight {list(product.shape)} is empty", "its weight is empty")
    if product.shape[1] % GROUP:
        return Refusal(
            f"K = {product.shape[1]} is not a multiple of {GROUP}", f"K is not a multiple of {GROUP}"
        )
    if x is None or x.is_initializer():
        return Refusal("its X is a constant")
    if x.shape is not None and len(x.shape) < 2:
        return Refusal("its X is a vector")
    return None


def _matmul(node: ir.Node, quantised: bool) -> _Product | Refusal:
    weight = _stored_constant(node.inputs[1], node, quantised)
    if isinstance(weight, Refusal):
        if not isinstance(_stored_constant(node.inputs[0], node, quantised), Refusal):
            return Refusal("its constant is the left factor")
        second = node.inputs[1]
        computed = second is not None and second.producer() is not None
        return Refusal("both factors are computed at run time") if computed else weight
    return _matrix(weight, transposed=not weight.transposed)


def _gemm(node: ir.Node, quantised: bool) -> _Product | Refusal:
    weight = _stored_constant(node.inputs[1], node, quantised)
    if isinstance(weight, Refusal):
        return weight
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if attributes.get("transA", 0):
        return Refusal("its X is transposed (transA)")
    if (attributes.get("alpha", 1.0), attributes.get("beta", 1.0)) != (1.0, 1.0):
        return Refusal("its alpha or beta is not 1")
    product = _matrix(weight, transposed=weight.transposed == bool(attributes.get("transB", 0)))
    return product if isinstance(product, Refusal) else _with_bias(node, product, quantised)


def _conv(node: ir.Node, quantised: bool) -> _Product | Refusal:
    weight = _stored_constant(node.inputs[1], node, quantised)
    if isinstance(weight, Refusal):
        return weight
    assert weight.initializer.shape is not None
    n, k, *kernel = (int(size) for size in weight.initializer.shape.numpy())
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if any(size != 1 for size in kernel):
        size = f"a {'×'.join(map(str, kernel))} convolution"
        return Refusal(
            f"{size if len(kernel) > 1 else f'a convolution of {kernel[0]} points'} is not a linear",
            "a convolution of more than one point is not a linear",
        )
    if attributes.get("group", 1) != 1:
        return Refusal(
            f"a convolution in {attributes['group']} groups is not a linear",
            "a convolution in groups is not a linear",
        )
    if any(step != 1 for step in attributes.get("strides", ())):
        stride = "×".join(map(str, attributes["strides"]))
        return Refusal(
            f"a convolution of stride {stride} skips inputs", "a convolution with a stride skips inputs"
        )
    if any(attributes.get("pads", ())):
        return Refusal("a 1×1 convolution with padding makes more outputs than inputs")
    return _with_bias(node, _Product(weight, False, (n, k), spatial=len(kernel)), quantised)


def _matrix(weight: _StoredConstant, *, transposed: bool) -> _Product | Refusal:
    assert weight.initializer.shape is not None
    stored = [int(size) for size in weight.initializer.shape.numpy()]
    if len(stored) != 2:
        return Refusal(f"its weight has {len(stored)} axes")
    n, k = reversed(stored) if transposed else stored
    return _Product(weight, transposed, (n, k))


def _with_bias(node: ir.Node, product: _Product, quantised: bool) -> _Product | Refusal:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return product
    bias = _constant_bias(value, node, product.shape[0], quantised)
    if bias is None:
        return Refusal(
            f"its bias is not a constant of {product.shape[0]} elements",
            "its bias is not a constant of N elements",
        )
    return replace(product, bias=bias)


def _constant_bias(value: ir.Value | None, node: ir.Node, size: int, quantised: bool) -> ir.Value | None:
    bias = _stored_constant(value, node, quantised)
    if isinstance(bias, Refusal) or bias.transposed or bias.initializer.shape is None:
        return None
    shape = bias.initializer.shape.numpy()
    return bias.initializer if shape[-1:] == (size,) and all(axis == 1 for axis in shape[:-1]) else None


def _added_bias(node: ir.Node, size: int, quantised: bool) -> tuple[ir.Node, ir.Value] | None:
    """Returns the Add that adds a bias to a product and is the product's only reader, and the bias; None if there is no such
    Add."""
    output = node.outputs[0]
    if output.is_graph_output() or len(output.consumers()) != 1:
        return None
    (add,) = output.consumers()
    if add.op_type != "Add" or add.domain not in STANDARD_DOMAINS or add.graph is not node.graph:
        return None
    other = add.inputs[1] if add.inputs[0] is output else add.inputs[0]
    bias = None if other is output else _constant_bias(other, add, size, quantised)
    return None if bias is None else (add, bias)


def _counted(skipped: Mapping[str, Refusal]) -> str:
    """Returns the number of nodes for each reason, and the first nodes with theirs; "" without nodes."""
    counts = Counter(reason.kind for reason in skipped.values()).most_common()
    counted = "; ".join(f"{count} × {kind}" for kind, count in counts)
    named = "; ".join(f"{name}: {reason}" for name, reason in islice(skipped.items(), _NAMED))
    return counted and f"{counted}. {named}{'; …' if len(skipped) > _NAMED else ''}."


_NAMED = 3  # nodes that an error names
_MATCHERS: dict[str, Callable[[ir.Node, bool], _Product | Refusal]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
}


@dataclass(frozen=True)
class _StoredConstant:
    """An initializer, and the path from it to its reader.

    transposed: True if the reader sees its two axes swapped; dtype: the type that the reader sees, None if unknown; reader:
    description of another node that reads it too, or empty; dequantize: the DequantizeLinear on the path.
    """

    initializer: ir.Value
    transposed: bool
    dtype: ir.DataType | None
    reader: str
    dequantize: ir.Node | None


def _stored_constant(value: ir.Value | None, node: ir.Node, quantised: bool) -> _StoredConstant | Refusal:
    """Returns the constant that `node` reads as `value`, or the reason why it is not a constant, in words.

    Raises PatchCompileError for a quantized constant: pruning would change the scale that the rest needs. quantised: passes
    over its Q/DQ instead.
    """
    transposed, cast, reader, read = False, False, "", value
    dequantize: ir.Node | None = None
    while value is not None and (producer := value.producer()) is not None:
        reader = reader or _other_reader(value, node)
        kind = producer.op_type
        if kind in _QUANTIZING and not quantised:
            raise _quantized(node, f"{kind} {node_name(producer)!r} makes its weight")
        if kind == "DequantizeLinear":
            dequantize = dequantize or producer
        elif kind not in QDQ and (producer.domain not in STANDARD_DOMAINS or kind not in PASSED_ON):
            return Refusal(f"{_COMPUTED}, by {kind} {node_name(producer)!r}", _COMPUTED)
        if kind == "Transpose":
            perm = [*producer.attributes.get_ints("perm", (1, 0))]
            if perm != [1, 0]:
                words = f"its weight goes through Transpose {node_name(producer)!r} of axes {perm}"
                return Refusal(words, "its weight goes through a Transpose of more than two axes")
            transposed = not transposed
        cast = cast or kind in ("Cast", *QDQ)
        node, value = producer, producer.inputs[0]
    if value is None:
        return Refusal("it has no weight")
    if not value.is_initializer():
        return Refusal(
            f"its weight is the input {value.name!r} of the graph", "its weight is an input of the graph"
        )
    dtype = read.dtype if read is not None and (cast or read.dtype is not None) else value.dtype
    return _StoredConstant(value, transposed, dtype, reader or _other_reader(value, node), dequantize)


def _quantized(node: ir.Node, why: str) -> PatchCompileError:
    """Returns the error for a model with integer weights."""
    return PatchCompileError(
        f"The model is quantized: {node.op_type} {node_name(node)!r}",
        f"{why}, and PatchLinear holds fp16 or bf16.",
        "Give the model as it was before it was quantized.",
    )


def _other_reader(value: ir.Value, node: ir.Node) -> str:
    """Returns a description of the first node, other than `node`, that reads a value and does more than pass it on."""
    if value.is_graph_output():
        return "an output of the graph"
    for other in (reader for reader in value.consumers() if reader is not node):
        while other.op_type in PASSED_ON and (following := other.outputs[0].consumers()):
            other = following[0]
        return f"{other.op_type} {node_name(other)!r}"
    return ""
