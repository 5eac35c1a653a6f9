"""Finds the initializer behind a value, through Identity, Cast and Transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.sources.onnx_model.linears import Refusal
from patch_compile.sources.onnx_model.names import node_name

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PASSED_ON", "StoredConstant", "quantized", "stored_constant"]

PASSED_ON = ("Identity", "Cast", "Transpose")
"""Operators that may stand between a constant and the product that reads it."""
_COMPUTED = "its weight is computed at run time"
_QUANTIZING = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class StoredConstant:
    """An initializer, and the path from it to its reader.

    transposed: True if the reader sees its two axes swapped; reader: description of another node that reads it too, or
    empty.
    """

    initializer: ir.Value
    transposed: bool
    reader: str


def stored_constant(value: ir.Value | None, node: ir.Node) -> StoredConstant | Refusal:
    """Returns the constant that `node` reads as `value`, or the reason why it is no constant, in words.

    Raises PatchCompileError for a quantized constant: pruning would change the scale that the rest needs.
    """
    transposed, reader = False, ""
    while value is not None and (producer := value.producer()) is not None:
        reader = reader or _other_reader(value, node)
        kind = producer.op_type
        if kind in _QUANTIZING:
            raise quantized(node, f"{kind} {node_name(producer)!r} makes its weight")
        if producer.domain not in STANDARD_DOMAINS or kind not in PASSED_ON:
            return Refusal(f"{_COMPUTED}, by {kind} {node_name(producer)!r}", _COMPUTED)
        if kind == "Transpose":
            perm = producer.attributes.get("perm")
            if perm is not None and tuple(perm.as_ints()) != (1, 0):
                words = f"its weight goes through Transpose {node_name(producer)!r} of axes {list(perm.as_ints())}"
                return Refusal(words, "its weight goes through a Transpose of more than two axes")
            transposed = not transposed
        node, value = producer, producer.inputs[0]
    if value is None or not value.is_initializer():
        if value is None:
            return Refusal("it has no weight")
        return Refusal(
            f"its weight is the input {value.name!r} of the graph", "its weight is an input of the graph"
        )
    return StoredConstant(value, transposed, reader or _other_reader(value, node))


def quantized(node: ir.Node, why: str) -> PatchCompileError:
    """Returns the error for a model with integer weights."""
    return PatchCompileError(
        f"The model is quantized: {node.op_type} {node_name(node)!r}",
        f"{why}, and PatchLinear holds fp16 or bf16.",
        "Give the model as it was before it was quantized.",
    )


def _other_reader(value: ir.Value, node: ir.Node) -> str:
    """Returns a description of another reader of a value than `node`: the first node that does more than pass it on."""
    if value.is_graph_output():
        return "an output of the graph"
    for other in (use.node for use in value.uses() if use.node is not node):
        while other.op_type in PASSED_ON and (after := [use.node for use in other.outputs[0].uses()]):
            other = after[0]
        return f"{other.op_type} {node_name(other)!r}"
    return ""
