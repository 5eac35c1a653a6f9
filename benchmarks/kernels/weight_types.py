"""Predicts models with weights of 16 bits, int8 and int4 side by side, beside the bytes of a weight of each.

    python benchmarks/kernels/weight_types.py [--page docs/explanation/performance.md]

The predictions are those of `patch-compile plan --weights`. Nothing here is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from in_flight import bytes_a_cycle
from roofline import MODELS, table

from benchmarks.page_part import print_or_renew
from masklearn.masks.kinds.table import KINDS
from masklearn.quant.table import FLOAT16, INT4, INT8, WeightType
from patch_compile.artifacts.plan import WholeRow, Workload
from patch_compile.hardware.cards import card_named
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import assumed_plans, settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.roofline.schedule import CONFIGS
from patch_compile.plugin.toolchain import plugin_sources

__all__ = ["TYPES", "markdown", "predict_types"]

TYPES = (FLOAT16, INT8, INT4)
_CARDS, _BATCHES, _MODEL, _RATIO, _TOKENS = (
    ("A6000", "A100-80", "RTX 4090", "H100"),
    (1, 16),
    "LLaMA-2-7B",
    0.4,
    128,
)
_TILE = (128, 128)
_BYTES = (
    "Bytes of a weight in packed slabs, with the metadata or masks of its kind and the scales of int4. int8 has another 4 "
    "bytes for each row."
)
_WHOLE = (
    f"{_MODEL}, ratio {_RATIO}, {_TOKENS} + {_TOKENS} tokens, as `patch-compile plan --weights` predicts it. How much "
    "faster a decode step is than with dense 16-bit weights, its limit by bytes, and how much faster than with dense "
    "weights of the same type; then how much faster prompts and the whole workload are than with dense 16-bit weights."
)
_CYCLES = (
    "Cycles that a slab takes an SM in the decode kernels (simulated by `benchmarks/kernels/issue.py`), and after the "
    "slash those that DRAM leaves for its bytes. Where the first number is larger, unpacking limits decode, and not the "
    "bytes."
)
_DECODE = {INT8: "int8-decode-64", INT4: "int4-decode-64"}


def predict_types(
    target: str, batch: int, weights: WeightType, ratio: float = _RATIO
) -> tuple[WholeRow, int]:
    """Returns the planner's prediction for the model, and the bytes of its linears."""
    linears, outline = outline_of_llama(MODELS[_MODEL])
    costs = CostModel(card_of(target), Workload(batch=batch, prompt=_TOKENS, generated=_TOKENS))
    ratios, types = dict.fromkeys(linears, ratio), dict.fromkeys(linears, weights)
    plans = assumed_plans(linears, _TILE, ratios, "auto", costs, None, types)
    plans = settle_together(plans, "auto", outline, costs)
    return predict_whole(plans.values(), outline, costs), sum(plan.bytes_after for plan in plans.values())


def bytes_table() -> str:
    """The bytes of a weight by kind and type."""
    rows = ([kind.name, *(f"{kind.bytes_of(one):.4g}" for one in TYPES)] for kind in KINDS)
    return table(["kind", *(f"{one}" for one in TYPES)], rows)


def cycles_table() -> str:
    """Simulated cycles of a slab of integers against what DRAM leaves, by card, type and kind."""
    code = json.loads((plugin_sources() / "kernels" / "sass.json").read_text())["kernels"]
    configs, rows = {config.name: config for config in CONFIGS}, []
    for card in map(card_named, (*_CARDS, "H200")):
        for weights, name in _DECODE.items():
            cycles, share = code[f"sm_{card.sm}"][name]["cycles"], bytes_a_cycle(card)
            left = (configs[name].slab_bytes(kind.code) / share for kind in KINDS)
            cells = (
                f"{cycles[kind.name][card.is_geforce]} / {cycle:.0f}"
                for kind, cycle in zip(KINDS, left, strict=True)
            )
            rows.append([card.name, str(weights), *cells])
    return table(["device", "weights", *(kind.name for kind in KINDS)], rows)


def types_table() -> str:
    """The types side by side, on several cards."""
    header = ["device", "batch", "weights", "GB of linears", "decode step, ms", "over dense", "limit"]
    return table([*header, "over dense of the type", "prefill", "whole workload"], _rows())


def _rows() -> Iterator[list[str]]:
    for target in _CARDS:
        for batch in _BATCHES:
            for weights in TYPES:
                found, size = predict_types(target, batch, weights)
                step = found.decode.planned_ms / (_TOKENS - 1)
                row = [target, str(batch), str(weights), f"{size / 1e9:.2f}", f"{step:.2f}"]
                row += [f"{found.decode.speedup:.2f}", f"{found.decode.limit:.2f}"]
                row += [f"{found.decode.over_alike:.2f}"]
                yield [*row, f"{found.prefill.speedup:.2f}", f"{found.end_to_end.speedup:.2f}"]


def markdown() -> str:
    """The part that docs/explanation/performance.md shows."""
    parts = [_BYTES, bytes_table(), _CYCLES, cycles_table(), _WHOLE, types_table()]
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or renew their part of a page."""
    return print_or_renew(argv, __doc__, "weight-types", markdown)


if __name__ == "__main__":
    sys.exit(main())
