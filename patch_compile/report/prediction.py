"""Puts a plan into words: reasons for lowerings, epilogues of nodes, and predicted speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

from masklearn.base.printable import counted
from masklearn.choice.menu import AUTO
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.name_globs import kind_of, shared_path, short_kinds
from masklearn.masks.record import ChoiceRecord, GainRecord
from masklearn.masks.tiles import spell_tile
from masklearn.quant.table import weight_type
from patch_compile.artifacts.plan import (
    Asked,
    LinearRow,
    LittleGain,
    Node,
    PlanSummary,
    Reason,
    ReasonKind,
    Slower,
    Unpredicted,
    Way,
)
from patch_compile.artifacts.plan_of_model import Tried
from patch_compile.artifacts.prediction import Calibration, PhaseRow, WholeRow
from patch_compile.packing.slab_kinds import SLAB_K
from patch_compile.planning.measured import FITTED
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.speed_goal import SpeedGoal
from patch_compile.report.number_format import times

_ACTIVATIONS = {"": "", "gelu": "GELU", "gelu_tanh": "GELU (tanh)", "silu": "SiLU"}
_SLOWER = {
    Way.DENSE_PATH: "packed weights are unpacked before a dense GEMM ({:.2f}×)",
    Way.MMA_SP: "mma.sp is slower than the dense model's wgmma ({:.2f}×)",
}
_UNPREDICTED = {
    Unpredicted.NO_CARD: (
        "nothing is predicted, for the table of cards has no data sheet for this target: "
        f"a linear is plugin wherever a {SLAB_K}-wide slab of it is 2:4"
    ),
    Unpredicted.NO_CHECKPOINT: (
        f"speed is predicted only for checkpoints: a linear is plugin wherever a {SLAB_K}-wide slab of it is 2:4"
    ),
}
_NOT_MEASURED = "predicted, not measured: docs/explanation/predictions.md"
_SPLIT = (
    "split linears are predicted by the rates of cuBLASLt and cuSPARSELt, as if TensorRT chose its 2:4 tactics: which "
    "tactics it chooses is unknown"
)


def predicted_times(row: PhaseRow) -> str:
    """Returns a predicted speed-up with its interval: 1.34× (1.22–1.41)."""
    return f"{times(row.speedup)} {interval(row)}"


def interval(row: PhaseRow) -> str:
    return f"({row.low:.2f}–{row.high:.2f})"


def rivals_words(whole: WholeRow, linears: Iterable[LinearRow]) -> str:
    """Returns the speed-up over dense weights of the plan's types, and over fp8, both by libraries; or ""."""
    row = whole.end_to_end
    weights = sorted({row.weights for row in linears if weight_type(row.weights).input_bits == 8})
    rivals = [f"dense {' and '.join(weights)} {times(row.over_library)}"] if weights else []
    if row.over_fp8 is not None:
        rivals.append(f"dense fp8 {times(row.over_fp8)}")
    return f"over libraries: {', '.join(rivals)}" if rivals else ""


def split_words(row: PhaseRow) -> str:
    """Returns what of a speed-up weight types bring, and what tiles bring, or "" if types bring nothing."""
    if times(row.by_types) == times(1.0):
        return ""
    return f"weight types bring {times(row.by_types)} and tiles {times(row.by_tiles)}"


def little_gain_line(gain: LittleGain) -> str:
    """Returns in words that tiles are not worth their loss, with the better command."""
    weights = f" --weights {gain.weights}" if gain.weights else ""
    unpruned = times(gain.unpruned)
    better = ["the dense model" if unpruned == times(1.0) else f"--ratio 0{weights} ({unpruned})"]
    if gain.tokens:
        better.append(f"prefill of {gain.tokens}+ tokens")
    return f"tiles bring only {times(gain.by_tiles)}: better {', or '.join(better)}"


def reason_words(reason: Reason) -> str:
    on = f"on {reason.card}"
    slower = _SLOWER[reason.slower.way].format(reason.slower.speedup) if reason.slower else ""
    tile = spell_tile(reason.tile) if reason.tile else ""
    return {
        ReasonKind.NOT_COVERED: "it is not covered",
        ReasonKind.ASKED: "asked for by --lowering",
        ReasonKind.NO_SPARSE_TILE: "none of its tiles is pruned",
        ReasonKind.SMALL_TILES: f"no {SLAB_K}-wide slab lies in 2:4 tiles alone: tiles of {tile} are too small",
        ReasonKind.SMALL_LINEAR: f"it is too small: {on} even all 2:4 it is predicted no faster than dense",
        ReasonKind.LITTLE_SPARSE: f"too little of it is 2:4: {on} hybrid is predicted no faster than dense",
        ReasonKind.PROMPTS: f"most of its time goes to prefill, where {on} {slower}",
        ReasonKind.DENSE_PRODUCT: (
            f"{on} it is predicted faster in one dense GEMM with {', '.join(reason.product)}"
        ),
        ReasonKind.NOT_IN_GRAPH: "no GEMM of the graph has its numbers: it keeps what the graph has",
        ReasonKind.READ_TWICE: "more than one GEMM of the graph has its weight, which is masked in place",
        ReasonKind.READ_OTHERWISE: "not only GEMMs of the graph read its weight: it keeps what the graph has",
        ReasonKind.ALIKE: "another linear has the same numbers, and no name tells them apart: it keeps what the graph has",
    }[reason.kind]


def lowering_words(row: LinearRow) -> str:
    return f"{row.lowering} {row.weights}" if weight_type(row.weights).quantised else row.lowering


def mask_line(name: str, mask: LinearMask) -> str:
    kinds = ", ".join(f"{count} {kind.name}" for kind, count in mask.by_kind().items())
    return f"{name} {list(mask.shape)} in tiles of {spell_tile(mask.tile)}: weights {kinds}"


def decision_line(row: LinearRow) -> str:
    slabs = ", ".join(f"{count} {kind}" for kind, count in row.slabs.by_kind.items() if count)
    why = f": {reason_words(row.reason)}" if row.reason else ""
    return f"{row.name} {list(row.shape)}, {row.weights}, slabs {slabs}: {row.lowering}{why}"


def has_quantised(linears: Iterable[LinearRow]) -> bool:
    return any(weight_type(row.weights).quantised for row in linears)


def node_words(node: Node, linear: str) -> str:
    """Returns the operations of a node beside the GEMM of one linear, or "".

    Examples: `SiLU·mul with up_proj`, `GELU + residual`.
    """
    first = _ACTIVATIONS[node.activation]
    if node.gated:
        (partner,) = (name for name in node.linears if name != linear)
        first += f"·mul with {partner.removeprefix(shared_path(linear, partner))}"
    elif len(node.linears) > 1:
        first = f"one GEMM of {node.name.removeprefix(shared_path(*node.linears[:2]))}"
    return " + ".join(filter(None, (first, "residual" * node.residual)))


def reason_lines(linears: Iterable[LinearRow]) -> Iterator[str]:
    """Yield one line for each lowering and reason, with the kinds of linear that have it."""
    linears = list(linears)
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    counts: dict[tuple[str, Reason], Counter[str]] = {}
    for row in linears:
        if row.reason:
            lowering = f"dense {row.weights}" if row.node else row.lowering  # a node of dense slabs
            counts.setdefault((lowering, row.reason), Counter())[short[kind_of(row.name)]] += 1
    for (lowering, reason), kinds in counts.items():
        many = ", ".join(f"{kind} ×{count}" for kind, count in kinds.items())
        yield f"{lowering}: {many}: {reason_words(reason)}"


def remarks(linears: Sequence[LinearRow], plan: PlanSummary) -> list[str]:
    if plan.whole is None or plan.card is None:
        return [_UNPREDICTED[plan.unpredicted]] if plan.unpredicted else []
    calibration = plan.card.calibration
    lowerings = {row.lowering for row in linears}
    return [
        calibration_words(calibration) if calibration else _NOT_MEASURED,
        *_slower_than_dense(linears, plan.card.name, plan.whole),
        *([_SPLIT] if "split" in lowerings else []),
        *_slower_prefill(linears, plan.card.name),
    ]


def calibration_words(calibration: Calibration) -> str:
    """Returns the measurements of a card and their effect on the assumptions, in words."""
    clock = f"SM clock {calibration.clocks['sm_mhz']:g} MHz" if calibration.clocks else "clocks not recorded"
    about = {field.name: field.metadata["what"] for field in fields(Assumptions)} | FITTED
    changed = (
        f"{name} {value:.2f} instead of {getattr(ASSUMED, name):.2f} ({about[name]})"
        for name, value in calibration.assumptions.items()
    )
    words = (
        f"predictions of a roofline (docs/explanation/performance.md) whose assumptions were fitted to {calibration.times} "
        f"times of {calibration.model}, measured on {calibration.gpu} ({clock}, driver {calibration.driver or 'unknown'}, "
        f"{calibration.backend} {calibration.version}) on {calibration.date[:10]}: {', '.join(changed)}; it misses these "
        f"times by {calibration.error['after']:.0%} (median), and missed them by {calibration.error['before']:.0%}"
    )
    own = "; this calibration comes with patch-compile, `bench --calibrate` makes your own"
    return words + own * calibration.shipped


def tried_line(tried: Sequence[Tried], asked: Asked) -> str:
    """Returns in words why tiles have their size, which is open for a speed, or their kinds, which are open for a ratio."""
    taken, alternative = tried
    goal, figure, other_figure = asked_words(asked), taken.figure or 0.0, alternative.figure
    if other_figure is None:
        return f"tile: {taken.value}: tiles of {alternative.value} do not reach {goal}"
    if asked.ratio is not None:
        only, loses = ("only ", "") if alternative.value == AUTO else ("", " and lose more quality")
        why = f"would reach {only}{times(other_figure)}{loses}"
        return f"kinds: {taken.value}, predicted {times(figure)} end to end; {alternative.value} {why}"
    with_other = f"with {alternative.value} too"
    if figure != other_figure:
        with_other = f"{other_figure:.3f} with {alternative.value}"
    return f"tile: {taken.value}: {goal} takes a ratio of {figure:.3f} with these, and {with_other}"


def goal_words(choice: ChoiceRecord) -> str:
    if choice.unit in Asked.model_fields:
        return asked_words(Asked.model_validate({choice.unit: choice.asked}))
    return f"tiles that save {choice.asked} {choice.unit}"


def choice_line(choice: ChoiceRecord | None) -> str:
    """Returns in words how little tiles, and weight types if these were open, lose for a goal.

    It is empty for a ratio, whose tiles are the best to one tile, and if nothing was to be chosen.
    """
    if choice is None or choice.unit == "ratio" or not choice.loss or choice.bound is None:
        return ""
    what, proof, rounding = "tiles", "the linear program", ""
    if choice.rounding is not None:
        what, proof = "weight types", "Lagrange's bound"
        rounding = f", {choice.rounding / choice.loss:.0%} of it by rounding"
    card = f" on {choice.card}" if choice.card else ""
    gap = f", a gap of {choice.loss / choice.bound - 1:.2%}" if choice.bound > 0 else ""
    return (
        f"{what} chosen for {goal_words(choice)}{card}: the loss is {choice.loss:.4g} in the method's score{rounding}; no "
        f"choice of the same menu that saves as much loses less than {choice.bound:.4g} ({proof}){gap}"
    )


def asked_words(asked: Asked) -> str:
    if asked.mask is not None:
        return f"masks of {asked.mask}"
    if asked.bytes_per_weight is not None:
        return f"{asked.bytes_per_weight:g} bytes per weight"
    if asked.ratio is not None:
        return f"ratio {asked.ratio}"
    return str(SpeedGoal(asked.speedup, asked.budget_ms))


def gain_line(gains: GainRecord | None) -> str:
    """Returns in words the linears that gain, empty if these are all that a ratio was asked for.

    Without a prediction, no linear is said to gain.
    """
    if gains is None or gains.gaining == gains.asked:
        return ""
    if not gains.gaining:
        none = f"gains by pruning on {gains.card}" if gains.card else "is pruned"
        return f"no linear {none}: all {gains.covered} stay dense (see --lowering plugin)"
    some = f"gain by pruning on {gains.card}" if gains.card else "are pruned"
    over_able = gains.ratio if gains.ratio_of_counted is None else gains.ratio_of_counted
    which = "gain with enough tiles" if gains.card else "can be packed"
    able = "" if over_able == gains.ratio else f"{over_able:.4f} of all that {which}, "
    return (
        f"{gains.gaining} of {gains.covered} linears {some}: the ratio is {gains.ratio:.4f} of their weights, "
        f"{able}{gains.ratio_of_covered:.4f} of the weights of all {gains.covered}; the others stay dense"
    )


def dequantised_line(linears: int) -> str:
    """Returns in words what becomes of linears whose grids no tile holds, empty if there are none."""
    if not linears:
        return ""
    return (
        f"quantised with zero points or to fp8, which no tile holds: {counted(linears, 'linear')}, whose values are read "
        "as 16-bit weights (--weights int4 or int8 rounds them again)"
    )


def waste_line(linears: Sequence[LinearRow]) -> str:
    """Returns in words how much of given masks lies in linears that are compiled dense by predicted time, or ""."""
    wasted = [row for row in linears if row.zeroed and row.reason and row.reason.kind.by_time]
    if not wasted:
        return ""
    share = sum(row.zeroed for row in wasted) / sum(row.zeroed for row in linears)
    return (
        f"{share:.1%} of the zeroed weights lie in {len(wasted)} linears that are compiled dense, where they save nothing: "
        "learning with --target leaves such linears whole"
    )


def _slower_than_dense(linears: Sequence[LinearRow], card: str, whole: WholeRow) -> Iterator[str]:
    if {row.lowering for row in linears} == {"dense"}:
        yield f"every linear is dense, so nothing is gained on {card}"
    elif whole.end_to_end.planned_ms < whole.end_to_end.dense_ms:
        return
    elif has_quantised(linears):
        yield (
            f"this plan is predicted slower than the dense model on {card}: its linears are too small for what kernels do "
            "besides their GEMMs, or its prompts too long for weights that are unpacked first; linears of 16 bits may "
            "stay ordinary GEMMs (--weights PATTERN=TYPE)"
        )
    else:
        yield (
            f"this plan is predicted slower than the dense model on {card}: its linears are too small, or too little of "
            "them is 2:4, for what the kernels do besides their GEMMs; --lowering auto leaves such linears dense"
        )


def _slower_prefill(linears: Iterable[LinearRow], card: str) -> Iterator[str]:
    """Yield the largest slowdown of each way, if the card's tensor cores make prefill slower."""
    worst: dict[Way, Slower] = {}
    for row in linears:
        slower = row.predicted.prefill.slower if row.predicted and row.lowering == "plugin" else None
        if slower and (slower.way not in worst or slower.speedup < worst[slower.way].speedup):
            worst[slower.way] = slower
    if worst:
        ways = ", and ".join(_SLOWER[way].format(worst[way].speedup) for way in sorted(worst, reverse=True))
        yield f"prefill on {card} is slower than with dense 16-bit weights: {ways}"
