"""Fuses the tanh approximation of GELU into a single op."""

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from patch_compile.passes.constants import constant_of

_OPSET = 20  # Gelu


class _TanhGelu(pattern.RewriteRuleClassBase):  # type: ignore[misc]  # onnxscript ships no types we follow
    """`0.5 x · (tanh(√(2/π) · (x + 0.044715 x³)) + 1)` -> Gelu(x, approximate="tanh").

    transformers computes gelu_new with these operations; gelu and gelu_pytorch_tanh are exported as Gelu.
    """

    def pattern(self, op: Any, x: Any, half: Any, three: Any, cubic: Any, scale: Any, one: Any) -> Any:
        inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
        return op.Mul(op.Mul(x, half), op.Add(op.Tanh(inner), one))

    def check(self, _context: Any, **constants: Any) -> Any:
        result = pattern.MatchResult()
        expected = {"half": 0.5, "three": 3.0, "cubic": 0.044715, "scale": math.sqrt(2 / math.pi), "one": 1.0}
        for name, number in expected.items():
            if not _is_scalar(constants[name], number):
                return result.fail(f"{name} is not {number:g}", constants[name])
        return result

    def rewrite(self, op: Any, x: Any, **_: Any) -> Any:
        return op.Gelu(x, approximate="tanh")


def _is_scalar(value: ir.Value, number: float) -> bool:
    """True if a constant is `number`, rounded to fp32 (as torch does) and then to the constant's type."""
    array = constant_of(value)
    if array is None or array.size != 1:
        return False
    return bool(array.reshape(-1)[0] == np.float32(number).astype(array.dtype))


class FuseGeluPass(ir.passes.InPlacePass):
    """The operations of transformers' gelu_new -> `Gelu(x, approximate=tanh)`, which does not round each step to 16 bits.

    1. The opset must be 20 or later; under an earlier opset the graph stays unchanged.
    2. The constants must match the tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rule and name the new nodes."""
        if model.graph.opset_imports.get("", 0) < _OPSET:
            return ir.passes.PassResult(model, modified=False)
        count = pattern.RewriteRuleSet([_TanhGelu.rule()]).apply_to_model(model)
        for node in model.graph:
            scope = (node.outputs[0].name or "").rpartition("/")[0]
            if node.op_type == "Gelu" and scope and not (node.name or "").startswith(scope):
                # "model.layers.0.mlp.act_fn/Mul_3:0", the value it replaced -> "model.layers.0.mlp.act_fn/Gelu"
                node.name = f"{scope}/Gelu"
        return ir.passes.PassResult(model, modified=count > 0)
