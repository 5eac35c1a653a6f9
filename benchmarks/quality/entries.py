"""Cells of the quality benchmark's table: methods with their settings, and the names of their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from masklearn import Baseline

RATIOS = (0.45, 0.35, 0.25)
LARGE_RATIOS = (*RATIOS, 0.1)
_ALL_KINDS_RATIO = 0.45
_DISTILL = {"repair": "distill"}
NO_REPAIR = "oneshot, no repair"
OWN_TEXT = "oneshot, no repair, self-written text"
PERMUTED = ", permuted"  # suffixes of a row's name
ALL_KINDS = ", kinds auto"
BYTES = ", w8a8"
AUTO = NO_REPAIR + ALL_KINDS
_MILD = ", kinds 6:8"
_MILD_RATIO = 0.25  # of 6:8 tiles
_PATCH_STEPS = 60  # half an hour on 2 cores, prior and solves included
_SPARSEGPT: dict[str, Any] = {"method": "sparsegpt", "criterion": "magnitude", "repair": "none"}
PATCH = f"patch-joint, {_PATCH_STEPS} steps, no repair"
_ONE_RATIO = 0.35  # ratio of rows that are measured at a single ratio
NOT_DEPLOYABLE = "not deployable"
# Repair steps of the rows that compare w8a8 with 16 bits. In 16 bits `8 min in all` has time for 13 on two cores with AVX2.
# w8a8 has time for fewer, because it also smooths and rounds on all windows.
_STEPS = 13


@dataclass(frozen=True)
class Entry:
    """One cell of the table. ratio: the column, None for a row with a ratio of its own; settings: for `LearnRecipe`;
    total: minutes that learning may take in all, repair included; tiled: measured for every tile size; spread:
    measured for every seed, at the first tile size; apart: measured by a run of its own, though it is repaired, because its
    kinds of tiles are not there in 16 bits.
    """

    method: str
    ratio: float | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    baseline: Baseline | None = None
    total: float | None = None
    tiled: bool = False
    spread: bool = False
    apart: bool = False

    @property
    def repairs(self) -> bool:
        """True when the entry continues from the masks and weights of the row without repair."""
        return self.settings.get("repair") == "distill" and not self.apart

    @property
    def trains(self) -> bool:
        """True when training begins with the masks of the row without repair, which is then measured too."""
        return self.repairs or self.method == PATCH


def entries(totals: Sequence[float] = (8.0,), repairs: Sequence[float] = (30.0,)) -> list[Entry]:
    """Returns all cells of one tile size in the order of measuring; the most requested cells come first."""
    found = [
        Entry("dense", None, baseline=Baseline.DENSE),
        Entry("sparsegpt 2:4", None, {"method": "sparsegpt", "ratio": 0.5}, spread=True),
        Entry("sparsegpt 8:16", None, _SPARSEGPT | {"kinds": "8:16", "ratio": 0.5}),
        Entry("sparsegpt 12:16", None, _SPARSEGPT | {"kinds": "12:16", "ratio": 0.25}),
        Entry("ffn-only 2:4", None, _SPARSEGPT | {"ratio": "*=0,mlp.*=0.5"}, spread=True),
    ]
    oneshot: dict[float, dict[str, Any]] = {ratio: {"method": "oneshot", "ratio": ratio} for ratio in RATIOS}
    for ratio, asked in oneshot.items():
        found.append(Entry(NO_REPAIR, ratio, asked | {"repair": "none"}, tiled=True, spread=True))
        for minutes in totals:
            name = f"oneshot, {minutes:g} min in all"
            found.append(Entry(name, ratio, asked | _DISTILL, total=minutes, tiled=True))
    for ratio, asked in oneshot.items():
        found += [
            Entry("random tiles", ratio, _SPARSEGPT | {"ratio": ratio, "criterion": "random"}),
            Entry("magnitude tiles", ratio, _SPARSEGPT | {"ratio": ratio}),
            Entry(f"unstructured ({NOT_DEPLOYABLE})", ratio, asked, Baseline.UNSTRUCTURED),
        ]
    for minutes in repairs:
        for ratio, asked in oneshot.items():
            settings = asked | _DISTILL | {"repair_minutes": minutes}
            found.append(Entry(f"oneshot + {minutes:g} min of repair", ratio, settings))
    for ratio, asked in oneshot.items():
        permuted = asked | {"permute": True}
        found.append(Entry(NO_REPAIR + PERMUTED, ratio, permuted | {"repair": "none"}))
        for minutes in totals:
            name = f"oneshot, {minutes:g} min in all{PERMUTED}"
            found.append(Entry(name, ratio, permuted | _DISTILL, total=minutes))
        for minutes in repairs:
            settings = permuted | _DISTILL | {"repair_minutes": minutes}
            found.append(Entry(f"oneshot + {minutes:g} min of repair{PERMUTED}", ratio, settings))
    for ratio in RATIOS:
        asked = _of_all_kinds(ratio)
        found.append(Entry(AUTO, ratio, asked | {"repair": "none"}))
        for minutes in totals:
            found.append(
                Entry(f"oneshot, {minutes:g} min in all{ALL_KINDS}", ratio, asked | _DISTILL, total=minutes)
            )
        for minutes in repairs:
            settings = asked | _DISTILL | {"repair_minutes": minutes}
            found.append(Entry(f"oneshot + {minutes:g} min of repair{ALL_KINDS}", ratio, settings))
    found += _quantised_entries(totals)
    own_text = oneshot[_ONE_RATIO] | {"repair": "none", "calib": None}
    found.append(Entry(OWN_TEXT, _ONE_RATIO, own_text))
    joint = {"method": "patch-joint", "ratio": _ONE_RATIO, "repair": "none", "steps": _PATCH_STEPS}
    return [*found, Entry(PATCH, _ONE_RATIO, joint)]


def entries_of_large(repairs: Sequence[float] = (30.0,)) -> list[Entry]:
    """Returns the cells of a model whose row takes half an hour: what a user would build, each without repair, and three
    with it."""
    found = [
        Entry("dense", None, baseline=Baseline.DENSE),
        Entry("sparsegpt 2:4", None, {"method": "sparsegpt", "ratio": 0.5}),
        *(
            Entry(f"dense, {weights}", None, {"weights": weights}, baseline=Baseline.ROUNDED)
            for weights in ("w8a8", "int8", "int4")
        ),
    ]
    unrepaired = {"method": "oneshot", "permute": True, "repair": "none"}
    for ratio in LARGE_RATIOS:
        asked = unrepaired | {"ratio": ratio}
        found.append(Entry(NO_REPAIR + PERMUTED, ratio, asked))
        found.append(Entry(NO_REPAIR + PERMUTED + BYTES, ratio, asked | {"weights": "w8a8"}))
    mild = unrepaired | {"ratio": _MILD_RATIO, "kinds": "6:8", "weights": "w8a8"}
    found.append(Entry(NO_REPAIR + PERMUTED + _MILD + BYTES, _MILD_RATIO, mild))
    for ratio in (_ALL_KINDS_RATIO, _MILD_RATIO):
        found.append(Entry(AUTO, ratio, _of_all_kinds(ratio) | {"repair": "none"}))
    for minutes in repairs:
        name, repaired = f"oneshot + {minutes:g} min of repair", _DISTILL | {"repair_minutes": minutes}
        asked = unrepaired | {"ratio": _MILD_RATIO} | repaired
        found.append(Entry(name + PERMUTED, _MILD_RATIO, asked))
        found.append(Entry(name + PERMUTED + _MILD + BYTES, _MILD_RATIO, mild | repaired, apart=True))
        found.append(Entry(name + ALL_KINDS, _ALL_KINDS_RATIO, _of_all_kinds(_ALL_KINDS_RATIO) | repaired))
    return found


def _of_all_kinds(ratio: float) -> dict[str, Any]:
    """Returns what `build` does without options for decoding, at the bytes of 2:4 tiles of a ratio."""
    taken = round(
        2 - 1.75 * ratio, 6
    )  # a weight takes 2 bytes in a dense tile, and 1.125 in a 2:4 tile, whose ratio is 0.5
    return {"method": "oneshot", "kinds": "auto", "bytes_per_weight": taken, "permute": True}


def _quantised_entries(totals: Sequence[float]) -> list[Entry]:
    """Returns the cells of w8a8, whose tiles are dense or 2:4, and of int8 and int4, at a single ratio."""
    steps = f"oneshot + {_STEPS} steps of repair"
    w8a8 = {"weights": "w8a8"}
    found = [
        Entry(f"dense{BYTES}", None, w8a8, baseline=Baseline.ROUNDED),
        Entry(f"sparsegpt 6:8{BYTES}", None, _SPARSEGPT | w8a8 | {"kinds": "6:8", "ratio": 0.25}),
    ]
    for ratio in RATIOS:
        in_16_bits: dict[str, Any] = {"method": "oneshot", "ratio": ratio} | _DISTILL
        asked = in_16_bits | w8a8
        found.append(Entry(NO_REPAIR + BYTES, ratio, asked | {"repair_steps": 0}))
        found.append(Entry(steps, ratio, in_16_bits | {"repair_steps": _STEPS}))
        found.append(Entry(steps + BYTES, ratio, asked | {"repair_steps": _STEPS}))
    asked = {"method": "oneshot", "ratio": _MILD_RATIO, "kinds": "6:8"} | w8a8
    found.append(Entry(NO_REPAIR + _MILD + BYTES, _MILD_RATIO, asked | {"repair": "none"}))
    repaired = asked | _DISTILL | {"repair_steps": _STEPS}
    found.append(Entry(steps + _MILD + BYTES, _MILD_RATIO, repaired, apart=True))
    for weights in ("int8", "int4"):
        mark = f", {weights}"
        nearest = {"method": "magnitude", "ratio": 0.0, "repair": "none", "weights": weights}
        found.append(Entry(f"dense{mark}, to nearest", None, nearest))
        found.append(Entry(f"dense{mark}", None, {"weights": weights}, baseline=Baseline.ROUNDED))
        asked = _of_all_kinds(_ONE_RATIO) | {"weights": weights}
        found.append(Entry(AUTO + mark, _ONE_RATIO, asked | {"repair": "none"}))
        for minutes in totals:
            name = f"oneshot, {minutes:g} min in all{ALL_KINDS}{mark}"
            found.append(Entry(name, _ONE_RATIO, asked | _DISTILL, total=minutes))
    return found
