"""Puts the record of how masks were made into words."""

from __future__ import annotations

from collections.abc import Iterator

from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import kinds_of
from masklearn.masks.record import (
    ChoiceRecord,
    MaskRecord,
    PermutedRecord,
    RepairRecord,
    SmoothedRecord,
    TrainRecord,
)
from patch_compile.report.linears import learned_types, types_line
from patch_compile.report.prediction import goal_words


def learned_lines(record: MaskRecord) -> Iterator[tuple[str, str]]:
    """Yield the steps of learning: a name and a description."""
    if record.choice:
        yield "asked for", _asked(record.choice)
    if record.smoothed:
        yield "smoothed", _smoothed(record.smoothed)
    if record.permuted:
        yield "reordered", _permuted(record.permuted)
    if record.train:
        yield "training", _train(record.train)
    if record.repair:
        yield "repair", _repair(record.repair)


def mosaic_line(masks: MaskSet) -> str:
    """Returns the shares of the kinds of tiles, the types of weights and the bytes of a weight.

    It is empty for 16-bit weights in dense and 2:4 tiles.
    """
    if masks.plain:
        return ""
    shares = ", ".join(f"{100 * n / masks.weights:.1f}% {kind}" for kind, n in masks.by_kind().items())
    tiles = f"tiles: {shares} (of the weights); "
    if masks.grids:
        return tiles + types_line(learned_types(masks), masks.packed_bytes_per_weight)
    return f"{tiles}a packed 16-bit weight takes {masks.bytes_per_weight:.3f} bytes on average"


def _asked(choice: ChoiceRecord) -> str:
    if choice.unit != "ratio":
        return goal_words(choice)
    if isinstance(choice.asked, float):
        alike = ", of each linear alike" if choice.per_layer else ", of all linears together"
        return f"{100 * choice.asked:.4g}% of the weights zeroed{alike}"
    alike = ", in each linear alike" if choice.per_layer else ""
    return f"weights zeroed by name of the linear: {choice.asked}{alike}"


def _smoothed(smoothed: SmoothedRecord) -> str:
    kinds = ", ".join(kinds_of(smoothed.whole))
    whole = f"; nothing takes exact scales in for {len(smoothed.whole)} linears: {kinds}" if kinds else ""
    return (
        f"the channels of {smoothed.scaled} of {smoothed.sites} inputs, by powers of two, so that rounding costs less; this "
        f"by itself changes a block’s output by {smoothed.dense_error:.1e} of its norm{whole}"
    )


def _permuted(permuted: PermutedRecord) -> str:
    return (
        f"{permuted.channels:,} hidden channels of {permuted.parts} feed-forward parts, so that weak channels share tiles; "
        f"this by itself changes a part’s output by {permuted.dense_error:.1e} of its norm"
    )


def _train(train: TrainRecord) -> str:
    kept = f"; kept: {train.kept}"
    distance = (
        f", with a KL of {train.kl[train.kept]:.3g} to the dense model" if train.kept in train.kl else ""
    )
    return f"{train.steps:,} steps on {train.tokens:,} tokens, from {train.prior}{kept}{distance}"


def _repair(repair: RepairRecord) -> str:
    if repair.method == "none":
        none = f"none: {repair.why}" if repair.why else "none"
        return "; ".join(filter(None, [none, _scales(repair)]))
    pairs = ((repair.kl_first, repair.kl_last, "KL"), (repair.error_first, repair.error_last, "error"))
    kept = "" if repair.kept else ", which is not better, so the weights stay as they were"
    distance = [
        f"{what} to the dense model, on the windows that judge it, {first:.3g} before, {last:.3g} after{kept}"
        for first, last, what in pairs
        if first is not None and last is not None
    ]
    steps = f"the surviving weights learned from the dense model: {repair.steps:,} steps on {repair.tokens:,} tokens"
    return "; ".join(filter(None, [steps, *distance, _scales(repair)]))


def _scales(repair: RepairRecord) -> str:
    if not repair.scale_steps or repair.scales_first is None or repair.scales_last is None:
        return ""
    what = "KL" if repair.kl_last is not None else "error"
    kept = f"{repair.scales_last:.3g} after" if repair.scales_last < repair.scales_first else "not less after"
    steps = f"scales of the rounded weights trained in {repair.scale_steps:,} more steps"
    return f"{steps}: {what} {repair.scales_first:.3g} before, {kept}"
