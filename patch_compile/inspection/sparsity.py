"""Answers why a sparse model is not faster: how the zeros of its linears lie, what can skip them, and what that gains."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masklearn import Pattern, Zeros, nonzero_of, read_zeros, zeros_of
from masklearn.base.printable import counted
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.quant.table import FLOAT16, INT8, W8A8, WeightType
from patch_compile.artifacts.layout import MASKS
from patch_compile.artifacts.plan import ReasonKind
from patch_compile.artifacts.prediction import Workload
from patch_compile.inspection import Inspection
from patch_compile.inspection.onnx_graph import kept_of, patch_linears
from patch_compile.packing.format import choose_panel_rows
from patch_compile.packing.slab_kinds import SLAB_K
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.cost import CostModel
from patch_compile.planning.roofline.library_product import library_time
from patch_compile.progress import Progress

if TYPE_CHECKING:
    import onnx_ir as ir

    from patch_compile.passes.linears import FoundLinears, Linear

_WORKLOAD = Workload(batch=1, prompt=2048, generated=128)
_DECODE, _PREFILL = "1 token", "2048 tokens"
_NEARLY = Pattern.NEARLY, Pattern.ALONG_N, Pattern.PAIRS  # few of their groups keep too many weights


class Way(StrEnum):
    """Programs that skip the zeros of a linear. The value is what a person is shown."""

    BOTH = "PatchLinear plugin, or TensorRT's own 2:4 tactic"
    PLUGIN = "PatchLinear plugin"
    TENSORRT = "TensorRT's own 2:4 tactic"  # only it: the plugin is no faster than dense, or takes no Q/DQ
    NONE = "none"


_OF_PATTERN = {
    Pattern.DENSE: "not pruned",
    Pattern.NEARLY: "groups of 4 that keep 3 or 4 weights lie in nearly every tile",
    Pattern.TILES: "too few tiles are 2:4",
    Pattern.ALONG_N: "each 4 neighbours along N (outputs) keep 2; the tensor cores need it along K (inputs)",
    Pattern.PAIRS: "pairs of weights are pruned, as nvfp4's instruction needs; the plugin multiplies single weights",
    Pattern.NONE: "too many groups of 4 keep 3 or 4 weights",
}
_OF_TIME = {
    ReasonKind.SMALL_LINEAR: "too small: with all tiles 2:4 the plugin is no faster",
    ReasonKind.LITTLE_SPARSE: "too few tiles are 2:4 for the plugin to be faster",
    ReasonKind.PROMPTS: "the plugin loses more time in prefill than it gains in decode",
}
_ONLY_BUILT = "only the plugin multiplies 2:4 tiles, and `build` takes a graph without Q/DQ and PatchLinear"
_PACKED = "PatchLinear multiplies it already"
_INTEGERS = "TensorRT's 2:4 tactic for integers needs Q/DQ with int8 in and out"
_INCOMPLETE = "its Q/DQ is incomplete: the input has none, so TensorRT multiplies dequantised weights"
_WIDE_OUTPUT = "its Q/DQ has an output of 16 bits: TensorRT's 2:4 tactic for int8 needs int8 in and out"
_WAYS = {  # by: the plugin multiplies it; TensorRT's own tactic can
    (True, True): Way.BOTH,
    (True, False): Way.PLUGIN,
    (False, True): Way.TENSORRT,
    (False, False): Way.NONE,
}
_FINITE = "every weight in them is finite"
_BETWEEN = "Identity", "Cast", "Transpose", "Reshape", "Relu"  # TensorRT moves Q/DQ across them


@dataclass(frozen=True)
class _Stored:
    """A linear as its file has it.

    stop: why TensorRT's own tactic can't multiply its zeros, in words, empty if it can; plugin: True if `build` can put it
    into a PatchLinear; packed: True if it is in a PatchLinear already.
    """

    name: str
    shape: tuple[int, int]
    zeros: Zeros
    weights: WeightType
    stop: str = ""
    plugin: bool = True
    packed: bool = False


@dataclass(frozen=True)
class _Linear:
    """A linear. reason: why its zeros are not skipped, or gain nothing somewhere, in words.

    times: by number of tokens, predicted microseconds with dense weights of its type, and as it would be compiled.
    """

    name: str
    shape: tuple[int, int]
    zeros: Zeros
    way: Way
    reason: str
    times: Mapping[str, tuple[float, float]]

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    def row(self) -> dict[str, Any]:
        return {
            "linear": self.name,
            "shape": list(self.shape),
            "zeros": round(self.zeros.zeros, 3),
            "pattern": self.zeros.pattern.value,
            "in 2:4 tiles": round(self.zeros.tiles, 3),
            "groups over": self.zeros.over,
            "path": self.way.value,
            **{f"{tokens}, ×": round(_ratio([times]), 2) for tokens, times in self.times.items()},
            "reason": self.reason,
        }


def inspect_sparsity(path: Path, card: PlanCard) -> Inspection:
    """Read all covered linears of a model folder, one at a time, and predict what their zeros gain on a card.

    Raises PatchCompileError for a weight that is not finite.
    """
    checkpoint = Checkpoint.open(path)
    encoder, coverage = checkpoint.architecture.encoder, covered_linears_of(checkpoint)
    costs = CostModel(card, _WORKLOAD.without_decode() if encoder else _WORKLOAD)
    types, linears = checkpoint.grids.types, list[_Linear]()
    with Progress().stage("zeros") as update:
        for done, (name, shape) in enumerate(coverage.linears.items(), start=1):
            kind = types.get(name, FLOAT16)
            stop = _INTEGERS if kind.quantised else ""
            linears.append(_linear(_Stored(name, shape, read_zeros(checkpoint, name), kind, stop), costs))
            update(name, done, len(coverage.linears))
    facts = {
        **_answer(linears, "folder", card),
        **_commands(path, card.name, linears),
        "architecture": checkpoint.config.get("model_type"),
        "covered linears": len(linears),
        "weights in them": _weights(linears),
        "left dense": dict(coverage.skipped),
    }
    return Inspection(path, "model", facts, [linear.row() for linear in linears], _FINITE)


def inspect_graph_sparsity(path: Path, card: PlanCard) -> Inspection:
    """Read all linears of an ONNX file of any origin, one at a time, and predict what their zeros gain on a card.

    Raises PatchCompileError for a file that can't be read or has no linear, and for a weight that is not finite.
    """
    from patch_compile.onnx_io.proto import refusing_invalid
    from patch_compile.onnx_io.read import read_onnx
    from patch_compile.passes.find_linears import find_linears, linears_of_file

    with refusing_invalid(path):
        model = read_onnx(path, any_node=True)
        packed = list(patch_linears(model))
        graph_linears = (
            find_linears(model, quantised=True) if packed else linears_of_file(path, model, quantised=True)
        )
    buildable = not packed and not any(linear.dequantize for linear in graph_linears.linears.values())
    costs, linears = CostModel(card, _WORKLOAD), list[_Linear]()
    with Progress().stage("zeros") as update:
        for stored in _of_graph(packed, graph_linears, buildable):
            linears.append(_linear(stored, costs))
            update(stored.name, len(linears), len(packed) + len(graph_linears.linears))
    facts = {
        **_answer(linears, "graph", card),
        **(_graph_commands(path, card.name, linears) if buildable else {}),
        **_tactic_command(path, linears, graph_linears),
        "producer": model.producer_name,
        "linears": len(linears),
        "weights in them": _weights(linears),
        "left dense": dict(graph_linears.skipped),
    }
    return Inspection(path, "onnx", facts, [linear.row() for linear in linears], _FINITE)


def _of_graph(packed: Sequence[ir.Node], graph_linears: FoundLinears, buildable: bool) -> Iterator[_Stored]:
    """Yield the linears of a graph: its PatchLinears, and its products. buildable: `build` takes the graph."""
    for node in packed:
        nonzero, weights = kept_of(node)
        shape = nonzero.shape[0], nonzero.shape[1]
        yield _Stored(str(node.name), shape, zeros_of(nonzero), weights, packed=True)
    for name, linear in graph_linears.linears.items():
        weights, stop = FLOAT16, ""
        if linear.dequantize and _source(linear.x) != "DequantizeLinear":
            weights, stop = INT8, _INCOMPLETE
        elif linear.dequantize:
            weights, stop = W8A8, "" if _only_quantised(linear.output) else _WIDE_OUTPUT
        yield _Stored(name, linear.shape, _zeros(linear), weights, stop, buildable)


def _zeros(linear: Linear) -> Zeros:
    """Returns the zeros of a linear of a graph. A weight before QuantizeLinear is taken as it is."""
    import onnx_ir as ir

    assert linear.weight.const_value is not None
    values = linear.weight.const_value.numpy()
    if values.dtype == np.int8:
        nonzero = values != _zero_point(linear.dequantize, values.ndim)
    elif (present := nonzero_of(values)) is not None:
        nonzero = present
    else:
        linear.checked_weight(linear.dtype)  # raises the error
    return zeros_of(linear.from_stored(ir.tensor(nonzero)))


def _zero_point(dequantize: ir.Node | None, axes: int) -> Any:
    """Returns the integers that stand for 0, in a shape that spreads over the weight."""
    value = dequantize.inputs[2] if dequantize and len(dequantize.inputs) > 2 else None
    if dequantize is None or value is None or value.const_value is None:
        return 0
    points = value.const_value.numpy()
    if points.ndim != 1 or not points.any():
        return points if points.ndim == 0 else 0
    axis = dequantize.attributes.get_int("axis", 1) % axes
    return points.reshape([-1 if number == axis else 1 for number in range(axes)])


def _source(value: ir.Value | None) -> str:
    """Returns the type of the node that makes a value, behind what TensorRT moves Q/DQ across; empty without a node."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in _BETWEEN:
            return node.op_type
        value = node.inputs[0]
    return ""


def _only_quantised(value: ir.Value) -> bool:
    """Returns True if QuantizeLinear reads all of a value, at once or behind what TensorRT moves Q/DQ across."""
    readers = [use.node for use in value.uses()]
    return (
        bool(readers)
        and not value.is_graph_output()
        and all(
            node.op_type == "QuantizeLinear"
            or (node.op_type in _BETWEEN and _only_quantised(node.outputs[0]))
            for node in readers
        )
    )


def _linear(stored: _Stored, costs: CostModel) -> _Linear:
    shape, zeros, weights = stored.shape, stored.zeros, stored.weights
    panel_rows = choose_panel_rows(shape, (zeros.side, zeros.side), weights=weights)
    slabs = -(-shape[0] // panel_rows) * -(-shape[1] // SLAB_K)
    sparse = round(zeros.tiles * slabs)
    predicted = costs.of(
        shape, panel_rows, {TWO_FOUR.name: sparse, DENSE.name: slabs - sparse}, weights=weights
    )
    slower = costs.why_dense(predicted)
    uniform, stop = zeros.pattern is Pattern.TWO_FOUR, stored.stop or _unaligned(shape, weights)
    tactic = uniform and not stop and not stored.packed
    pruned = stored.plugin and sparse > 0 and zeros.pattern is not Pattern.DENSE
    compiled = stored.packed or (pruned and not slower)
    by_tactic = tactic and not stored.plugin
    phases = {} if costs.workload.steps == 0 else {_DECODE: (costs.workload.batch, predicted.decode)}
    phases[_PREFILL] = costs.workload.prefill_tokens, predicted.prefill
    times = {
        tokens: _by_tactic(shape, many, weights, costs)
        if by_tactic
        else (phase.unpruned, phase.hybrid if compiled else phase.unpruned)
        for tokens, (many, phase) in phases.items()
    }
    reasons = []
    if stored.packed:
        reasons = [_PACKED]
    elif compiled or by_tactic:
        lost = [tokens for tokens, times_of in times.items() if _ratio([times_of]) < 1.005]
        reasons = [f"not faster with {' and '.join(lost)}"] if lost else []
    else:
        if stored.plugin and sparse and slower:
            reasons.append(_OF_TIME[slower.kind])
        elif not uniform:
            part = zeros.pattern is Pattern.TILES and not stored.plugin
            reasons.append(_ONLY_BUILT if part else _OF_PATTERN[zeros.pattern])
        if stop and (uniform or not stored.plugin) and zeros.pattern is not Pattern.DENSE:
            reasons.append(stop)
    return _Linear(stored.name, shape, zeros, _WAYS[compiled, tactic], "; ".join(reasons), times)


def _unaligned(shape: tuple[int, int], weights: WeightType) -> str:
    """Returns why no 2:4 tactic takes a shape, in words, empty if one does. The multiples are cuSPARSELt's."""
    step = 32 if weights.input_bits == 8 else 16
    odd = [f"{name} = {size}" for name, size in zip("NK", shape, strict=True) if size % step]
    why = f"{' and '.join(odd)} is no multiple of {step}, as cuSPARSELt needs, and TensorRT most likely too"
    return why if odd else ""


def _by_tactic(
    shape: tuple[int, int], tokens: int, weights: WeightType, costs: CostModel
) -> tuple[float, float]:
    """Returns the microseconds of a linear by cuBLASLt, and by cuSPARSELt with all of it 2:4."""
    card, assume = costs.card.rated, costs.card.assume
    dense, _ = library_time(card, shape, tokens, assume, weights=weights, fused=True)
    return dense, library_time(card, shape, tokens, assume, weights=weights, sparse=True)[0]


def _ratio(times: Iterable[tuple[float, float]]) -> float:
    dense, compiled = map(sum, zip(*times, strict=True))
    return float(dense / compiled)


def _verdict(linears: Sequence[_Linear], stored: str) -> dict[str, str]:
    """Returns the answer in words, and what stops the linears that are not compiled sparse, or gain nothing somewhere."""
    zeros = sum(linear.zeros.zeros * linear.weights for linear in linears) / _weights(linears)
    tiles = _share_in_tiles(linears)
    stopped = Counter(linear.reason for linear in linears if linear.reason).most_common()
    reasons = [f"{reason} ({counted(count, 'linear')})" for reason, count in stopped]
    if over := [linear.zeros for linear in linears if linear.zeros.pattern in _NEARLY and linear.zeros.over]:
        count, groups = sum(linear.over for linear in over), sum(linear.groups for linear in over)
        reasons.append(
            f"{count:,} of {groups:,} groups keep too many weights ({counted(len(over), 'linear')})"
        )
    if all(linear.zeros.pattern is Pattern.DENSE for linear in linears):
        return {"verdict": "It is not pruned: it has no zeros that could be skipped."}
    return {
        "verdict": f"{zeros:.1%} of the weights are zero, and {tiles:.1%} lie in tiles that are 2:4 along K. A {stored} "
        "stores zeros like other numbers: what loads it multiplies them. Only an engine that packs 2:4 skips them.",
        "what stops the rest": "; ".join(reasons) or "nothing",
    }


def _weights(linears: Sequence[_Linear]) -> int:
    return sum(linear.weights for linear in linears)


def _share_in_tiles(linears: Sequence[_Linear]) -> float:
    return sum(linear.zeros.tiles * linear.weights for linear in linears) / _weights(linears)


def _answer(linears: Sequence[_Linear], stored: str, card: PlanCard) -> dict[str, str]:
    """Returns the verdict, and the predicted gain of all linears. stored: what holds the weights, in a word."""
    gains = {tokens: _ratio([linear.times[tokens] for linear in linears]) for tokens in linears[0].times}
    spelled = ", ".join(f"{ratio:.2f}× with {tokens}" for tokens, ratio in gains.items())
    gain = f"{spelled}: all covered linears, each on its own, over dense weights of their types"
    return {**_verdict(linears, stored), "predicted gain": gain, "predicted for": str(card)}


def _commands(path: Path, card: str, linears: Sequence[_Linear]) -> dict[str, str]:
    """Returns the commands that compile the zeros, or that learn zeros which can be skipped."""
    ways, model, masks = {linear.way for linear in linears}, str(path), MASKS
    target = "--target", card, "-o", "OUT"
    if ways == {Way.NONE}:
        return {"to prune it for 2:4": _command("learn", model, "--ratio", "0.4", *target)}
    workload = "--batch-size", str(_WORKLOAD.batch), "--prompt-tokens", str(_WORKLOAD.prompt)
    build = _command("build", model, "--mask", masks, *workload, *target)
    commands = {"first run": _command("import-mask", model, "--model", model, "-o", masks)}
    if ways & {Way.BOTH, Way.PLUGIN}:
        commands["then run"] = build
    if ways & {Way.BOTH, Way.TENSORRT}:
        commands["then, without a plugin"] = f"{build} --lowering split"
    return commands


def _graph_commands(path: Path, card: str, linears: Sequence[_Linear]) -> dict[str, str]:
    """Returns the command that compiles the 2:4 tiles of a graph, which lose nothing, or that learns such tiles."""
    ways, build = {linear.way for linear in linears}, ("build", str(path), "--target", card, "-o", "OUT")
    if ways == {Way.NONE}:
        return {"to prune it for 2:4": _command(*build, "--ratio", "0.4", "--calib", "inputs.npz")}
    if ways.isdisjoint((Way.BOTH, Way.PLUGIN)):
        return {}
    side = min(linear.zeros.side for linear in linears)
    ratio = str(math.floor(500 * _share_in_tiles(linears)) / 1000)
    return {"run": _command(*build, "--method", "magnitude", "--ratio", ratio, "--tile", f"{side}x{side}")}


def _tactic_command(path: Path, linears: Sequence[_Linear], graph_linears: FoundLinears) -> dict[str, str]:
    """Returns TensorRT's own command, if its 2:4 tactics can multiply a linear of a graph."""
    if {linear.way for linear in linears}.isdisjoint((Way.BOTH, Way.TENSORRT)):
        return {}
    wide = all(
        linear.dtype.name == "FLOAT" and not linear.dequantize for linear in graph_linears.linears.values()
    )
    types = "--fp16" if wide else "--stronglyTyped"
    return {"without a plugin": shlex.join(["trtexec", f"--onnx={path}", "--sparsity=enable", types])}


def _command(*words: str) -> str:
    return shlex.join(["patch-compile", *words])
