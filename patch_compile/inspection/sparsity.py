"""Answers why a sparse model is not faster: how the zeros of its linears lie, what can skip them, and what that gains."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from masklearn import Pattern, Zeros, read_zeros
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.layout import MASKS
from patch_compile.artifacts.plan import ReasonKind
from patch_compile.artifacts.prediction import Workload
from patch_compile.inspection import Inspection
from patch_compile.packing.format import choose_panel_rows
from patch_compile.packing.slab_kinds import SLAB_K
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.cost import CostModel
from patch_compile.progress import Progress

_WORKLOAD = Workload(batch=1, prompt=2048, generated=128)
_DECODE, _PREFILL = "1 token", "2048 tokens"
_NEARLY = Pattern.NEARLY, Pattern.ALONG_N, Pattern.PAIRS  # few of their groups keep too many weights


class Way(StrEnum):
    """Programs that skip the zeros of a linear. The value is what a person is shown."""

    BOTH = "PatchLinear plugin, or TensorRT's own 2:4 tactic"
    PLUGIN = "PatchLinear plugin"
    TENSORRT = "TensorRT's own 2:4 tactic"  # only it: the plugin is predicted no faster than dense
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
    ReasonKind.PROMPTS: "the plugin loses more time with prompts than it gains in decode",
}


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
            linears.append(
                _linear(name, shape, read_zeros(checkpoint, name), types.get(name, FLOAT16), costs)
            )
            update(name, done, len(coverage.linears))
    facts = {
        **_verdict(linears),
        "predicted gain": _gain(linears),
        "predicted for": str(card),
        **_commands(path, card.name, linears),
        "architecture": checkpoint.config.get("model_type"),
        "covered linears": len(linears),
        "weights in them": sum(one.weights for one in linears),
        "left dense": dict(coverage.skipped),
    }
    return Inspection(path, "model", facts, [one.row() for one in linears], "every weight in them is finite")


def _linear(
    name: str, shape: tuple[int, int], zeros: Zeros, weights: WeightType, costs: CostModel
) -> _Linear:
    panel_rows = choose_panel_rows(shape, (zeros.side, zeros.side), weights=weights)
    slabs = -(-shape[0] // panel_rows) * -(-shape[1] // SLAB_K)
    sparse = round(zeros.tiles * slabs)
    found = costs.of(shape, panel_rows, {TWO_FOUR.name: sparse, DENSE.name: slabs - sparse}, weights=weights)
    slower = costs.why_dense(found)
    way, reason = Way.NONE, ""
    if zeros.pattern is Pattern.TWO_FOUR and not weights.quantised:
        way = Way.TENSORRT if slower else Way.BOTH
    elif sparse and not slower and zeros.pattern is not Pattern.DENSE:
        way = Way.PLUGIN
    compiled = way in (Way.BOTH, Way.PLUGIN)
    phases = {} if costs.workload.steps == 0 else {_DECODE: found.decode}
    phases[_PREFILL] = found.prefill
    times = {
        tokens: (one.unpruned, one.hybrid if compiled else one.unpruned) for tokens, one in phases.items()
    }
    if not compiled:
        reason = _OF_TIME[slower.kind] if sparse and slower else _OF_PATTERN[zeros.pattern]
    elif lost := [tokens for tokens, one in times.items() if _ratio([one]) < 1.005]:
        reason = f"not faster with {' and '.join(lost)}"
    return _Linear(name, shape, zeros, way, reason, times)


def _ratio(times: Iterable[tuple[float, float]]) -> float:
    """Returns the speed-up of several linears together."""
    dense, compiled = map(sum, zip(*times, strict=True))
    return float(dense / compiled)


def _verdict(linears: Sequence[_Linear]) -> dict[str, str]:
    """Returns the answer in words, and what stops the linears that are not compiled sparse, or gain nothing somewhere."""
    weights = sum(one.weights for one in linears)
    zeros = sum(one.zeros.zeros * one.weights for one in linears) / weights
    tiles = sum(one.zeros.tiles * one.weights for one in linears) / weights
    stopped = Counter(one.reason for one in linears if one.reason).most_common()
    reasons = [f"{reason} ({_many(count)})" for reason, count in stopped]
    if over := [one.zeros for one in linears if one.zeros.pattern in _NEARLY and one.zeros.over]:
        count, groups = sum(one.over for one in over), sum(one.groups for one in over)
        reasons.append(f"{count:,} of {groups:,} groups keep too many weights ({_many(len(over))})")
    if all(one.zeros.pattern is Pattern.DENSE for one in linears):
        return {"verdict": "It is not pruned: it has no zeros that could be skipped."}
    return {
        "verdict": f"{zeros:.1%} of the weights are zero, and {tiles:.1%} lie in tiles that are 2:4 along K. A folder "
        "stores zeros like other numbers: what loads it multiplies them. Only an engine that packs 2:4 skips them.",
        "what stops the rest": "; ".join(reasons),
    }


def _many(linears: int) -> str:
    return f"{linears} linear{'s' * (linears > 1)}"


def _gain(linears: Sequence[_Linear]) -> str:
    gains = {tokens: _ratio([one.times[tokens] for one in linears]) for tokens in linears[0].times}
    spelled = ", ".join(f"{gain:.2f}× with {tokens}" for tokens, gain in gains.items())
    return f"{spelled}: all covered linears, each on its own, over dense weights of their types"


def _commands(path: Path, card: str, linears: Sequence[_Linear]) -> dict[str, str]:
    """Returns the commands that compile the zeros, or that learn zeros which can be skipped."""
    ways, model, masks = {one.way for one in linears}, str(path), MASKS
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


def _command(*words: str) -> str:
    return shlex.join(["patch-compile", *words])
