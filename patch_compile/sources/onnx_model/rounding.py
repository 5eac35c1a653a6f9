"""Measures the effect of 16 bits on an ONNX model: the rounding of its outputs, by which the hybrid model may differ from
the pruned model, and the range of its linears' inputs and outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from masklearn.quant.grid import Grid
from patch_compile.artifacts.proof import ToleranceOrigin
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.compare import Outputs, answer, worst_error
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.own_process import run_in_turns
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.onnx_io.write import widen, write_onnx
from patch_compile.passes.linear_node import insert_cast, move_readers
from patch_compile.passes.linears import Linear
from patch_compile.passes.lowering.round_inputs import RoundInputsPass
from patch_compile.sources.onnx_model.facts import OnnxFacts
from patch_compile.sources.onnx_model.feed import write_probe
from patch_compile.sources.rounding import Rounding

_FLOAT = ir.DataType.FLOAT
_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_TOGETHER = 16  # tensors in memory
_ROUNDINGS = 3  # X, b and Y of a PatchLinear between Casts
_TYPE_ATTRIBUTES = ("to", "dtype")  # attributes of Cast, and of operators that create values of a given type


class WidenPass(ir.passes.InPlacePass):
    """fp16 and bf16 -> fp32 in every value, constant and attribute, including subgraphs.

    Weights are converted when they are read.

    1. A Cast to a 16-bit type becomes a Cast to fp32, so that nothing is rounded.
    2. The types of inputs and outputs change too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Widen inputs, initializers and nodes."""
        values = [*model.graph.inputs, *model.graph.initializers.values()]
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            _widen_attributes(node)
            values += node.outputs
        for value in values:
            if value.dtype in _NARROW:
                widen(value)
        return ir.passes.PassResult(model, modified=True)


def measured_rounding(
    facts: OnnxFacts,
    pruned: Path,
    hybrid: Path,
    packed: Sequence[str],
    grids: Mapping[str, Grid],
    feeds: Sequence[Feed],
    reference: Outputs,
    scratch: Path,
) -> Rounding:
    """Returns the number of roundings in the hybrid model's graph, and their measured effect on the pruned model.

    A graph may amplify roundings by any factor, so the effect is measured. If PatchLinear is between Casts, X and Y of
    the same linears are rounded in the pruned model, which is fp32. A model of 16-bit types is compared with itself in
    fp32; hybrid and pruned model may each differ from the fp32 model by that error, in different directions. If linears
    round X to int8, each rounding in front of them may carry an input to another integer. The hybrid and the measured model
    then differ from the pruned model by errors of one size that have nothing to do with each other; they are measured by
    norm.

    packed: names of the linears that are compiled; grids: of the quantised linears; reference: outputs of the pruned model
    for the feeds.
    """
    model, linears = facts.read(pruned)
    cast = {name: linears[name] for name in packed if linears[name].dtype == ir.DataType.FLOAT}
    in_fp32 = len(cast) == len(packed)
    count = _ROUNDINGS * len(cast) if in_fp32 else _sixteen_bit_results(hybrid)
    changed = RoundLinearsPass(cast, facts.dtype) if in_fp32 else WidenPass()
    rounded = RoundInputsPass(linears, grids)(changed(model).model)
    by_norm = bool(rounded.modified)
    error = _error(rounded.model, feeds, reference, scratch, by_norm=by_norm)
    if in_fp32 and not rounded.modified:
        return Rounding(count, measured=error, by=ToleranceOrigin.ROUNDED_LINEARS)
    by = ToleranceOrigin.ROUNDED_INPUTS if in_fp32 else ToleranceOrigin.SIXTEEN_BITS
    return Rounding(count, measured=2 * error, by=by, by_norm=by_norm)


def _sixteen_bit_results(path: Path) -> int:
    graph = ir.from_proto(load_proto(path)).graph
    return sum(any(value.dtype in _NARROW for value in node.outputs) for node in graph)


def _error(
    model: ir.Model, feeds: Sequence[Feed], reference: Outputs, scratch: Path, *, by_norm: bool
) -> float:
    """Returns the distance of a changed form of the pruned model from the pruned model."""
    changed = scratch / "changed.onnx"
    write_onnx(model, changed)
    answers = answer(runnable_onnx(changed, scratch), feeds, scratch / "changed")
    return worst_error(answers, reference, by_norm=by_norm)


class RoundLinearsPass(ir.passes.InPlacePass):
    """X and Y of each linear -> Cast to the 16-bit type and back. The linear itself is unchanged.

    A PatchLinear between Casts adds exactly these roundings, and one of its bias.
    """

    def __init__(self, linears: Mapping[str, Linear], dtype: ir.DataType) -> None:
        """linears: of the model that the pass is called with; dtype: FLOAT16 or BFLOAT16."""
        super().__init__()
        self._linears = linears
        self._dtype = dtype

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert Casts before and after each linear."""
        for linear in self._linears.values():
            first, last = linear.nodes[0], linear.nodes[-1]
            y, uses = linear.output, list(linear.output.uses())
            first.replace_input_with(0, self._rounded(linear.x, first, f"{linear.name}/x"))
            move_readers(y, uses, self._rounded(y, last, f"{linear.name}/y", behind=True))
        return ir.passes.PassResult(model, modified=bool(self._linears))

    def _rounded(self, value: ir.Value, place: ir.Node, name: str, *, behind: bool = False) -> ir.Value:
        wide = value.dtype
        graph = place.graph
        assert wide is not None and graph is not None
        for end, dtype in (("narrow", self._dtype), ("wide", wide)):
            value = insert_cast(graph, place, value, f"{name}/{end}", dtype, behind=behind)
            maker = value.producer()
            place = maker if behind and maker is not None else place
        return value


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _NARROW:
            array = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(array))
        elif name in _TYPE_ATTRIBUTES and attribute.value in [int(dtype) for dtype in _NARROW]:
            node.attributes[name] = ir.AttrInt64(name, int(_FLOAT))


def check_float16(facts: OnnxFacts, names: Collection[str], scratch: Path) -> None:
    """Raise PatchCompileError if an fp32 linear has an input or output, on the first of the file's inputs, that float16
    does not hold. Values that fp32 does not hold either are ignored.

    names: the linears that may be compiled to float16; scratch: an existing folder for a copy of the model.
    """
    from masklearn import LARGEST, OVERFLOWS

    model, linears = facts.read(facts.recipe.model)
    wide = {name: linears[name] for name in names if linears[name].dtype == ir.DataType.FLOAT}
    if facts.dtype != ir.DataType.FLOAT16 or not wide:
        return
    probe = scratch / "range.onnx"
    write_probe(model, wide, probe, with_outputs=True)
    places = {
        str(value.name): (what, name)
        for name, linear in reversed(wide.items())  # an input of several linears is named after the first
        for what, value in (("input", linear.x), ("output", linear.output))
    }
    ordered = [str(value.name) for linear in wide.values() for value in (linear.x, linear.output)]
    tensors = list(dict.fromkeys(ordered))
    turns = [tensors[start : start + _TOGETHER] for start in range(0, len(tensors), _TOGETHER)]
    for found in run_in_turns(runnable_onnx(probe, scratch), facts.feeds[0], turns):
        for tensor, values in found.items():
            largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
            if largest >= OVERFLOWS:
                what, linear = places[tensor]
                raise PatchCompileError(
                    f"{facts.recipe.model.stem} does not compute in float16",
                    f"In the dense model the {what} of {linear} reaches {largest:.4g}, and float16 ends at {LARGEST}.",
                    f"Choose bf16 (--dtype bfloat16), or leave the linear dense with --exclude '{linear}'.",
                )
