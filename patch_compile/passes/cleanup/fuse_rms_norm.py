"""Fuses root mean square normalization into a single op."""

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

from patch_compile.passes.constants import scalar_of

_OPSET = 23  # RMSNormalization


class _Rule(pattern.RewriteRuleClassBase):  # type: ignore[misc]  # onnxscript ships no types we follow
    """A normalization that becomes RMSNormalization(x, weight)."""

    def check(self, _context: Any, x: Any, weight: Any, two: Any, axes: Any, epsilon: Any, **_: Any) -> Any:
        result = pattern.MatchResult()
        if scalar_of(two) != 2:
            return result.fail("the mean is not a mean of squares", two)
        if scalar_of(axes) != -1:
            return result.fail("the mean is not over the last axis", axes)
        if scalar_of(epsilon) is None:
            return result.fail("epsilon is not a constant", epsilon)
        if weight.shape is None or len(weight.shape) != 1 or weight.dtype != x.dtype:
            return result.fail("the weight is not a vector of the input's type", weight)
        return result

    def rewrite(self, op: Any, x: Any, weight: Any, epsilon: Any, **_: Any) -> Any:
        number = float(scalar_of(epsilon) or 0.0)
        return op.RMSNormalization(x, weight, axis=-1, epsilon=number, stash_type=1)


class _RmsNorm(_Rule):
    """`weight * cast(x32 / sqrt(mean(x32²) + ε))`, x32 = cast(x, fp32) -> RMSNormalization(x, weight).

    Both sides round alike: the op normalizes in fp32 (stash_type 1), rounds to the type of x and then scales.
    """

    def pattern(self, op: Any, x: Any, weight: Any, two: Any, axes: Any, epsilon: Any, dtype: Any) -> Any:
        normal = _normalized(op, op.Cast(x, to=int(ir.DataType.FLOAT)), two, axes, epsilon)
        return op.Mul(weight, op.Cast(normal, to=dtype))


class _WideRmsNorm(_Rule):
    """`x32 / sqrt(mean(x32²) + ε) * scale32` -> RMSNormalization(x32, scale32).

    Gemma normalizes this way: its scale is `1 + weight`, and it scales in fp32 before it rounds.
    """

    def pattern(self, op: Any, x: Any, weight: Any, two: Any, axes: Any, epsilon: Any) -> Any:
        return op.Mul(_normalized(op, x, two, axes, epsilon), weight)


def _normalized(op: Any, x: Any, two: Any, axes: Any, epsilon: Any) -> Any:
    mean = op.ReduceMean(op.Pow(x, two), axes, keepdims=1, _allow_other_attributes=True)
    return op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon))))


class FuseRmsNormPass(ir.passes.InPlacePass):
    """`x / Sqrt(mean(x²) + ε) · weight` -> `RMSNormalization(x, weight)`.

    1. The opset must be 23 or later; under an earlier opset the graph stays unchanged.
    2. The mean must be over the last axis, epsilon a constant and the weight a vector of the input's type.
    3. The scaling may follow the rounding to 16 bits (Llama) or precede it (Gemma).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the two rules and name the new nodes."""
        if model.graph.opset_imports.get("", 0) < _OPSET:
            return ir.passes.PassResult(model, modified=False)
        rules = pattern.RewriteRuleSet([_RmsNorm.rule(), _WideRmsNorm.rule()])
        count = rules.apply_to_model(model)
        for node in model.graph:
            if node.op_type == "RMSNormalization" and node.outputs[0].name is not None:
                # "model.norm/Mul_1:0", the value it replaced -> "model.norm/RMSNormalization"
                node.name = node.outputs[0].name.rpartition("/")[0] + "/RMSNormalization"
        return ir.passes.PassResult(model, modified=count > 0)
