"""Predicts the kernels' times by bytes and instructions, on any card, beside a dense model.

    python benchmarks/kernels/roofline.py --page docs/explanation/performance.md

Renews the part of a page that this program writes: whole models, the assumptions and the cards. Nothing here is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from benchmarks.kernels.rows import table
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8, WeightType
from patch_compile.artifacts.plan import Slower, Times, Way
from patch_compile.artifacts.prediction import WholeRow, Workload
from patch_compile.hardware.cards import RatedCard, Share, rated_cards
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import plan_assumed
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.products import InputGroup, cost_together, products_of
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.rest import Model
from patch_compile.plugin.toolchain import plugin_sources

RATIOS = (0.25, 0.35, 0.45)
BATCH, PROMPT, GENERATED = 16, 128, 128
_TILE = (128, 128)
# STOICC (a Triton fork), LLaMA-2-7B, batch 16, 128 + 128 tokens: measured by its authors
PUBLISHED = {"A6000": (1.18, 1.27, 1.38), "A100-40": (1.07, 1.11, 1.16)}
MODELS = {
    model.name: model
    for model in (
        Model(32, 4096, 11008, 32, 32, 128, 32000, name="LLaMA-2-7B"),
        Model(32, 4096, 14336, 32, 8, 128, 128256, name="LLaMA-3.1-8B"),
        Model(24, 896, 4864, 14, 2, 64, 151936, name="Qwen2.5-0.5B"),
    )
}
_SLOWER = {Way.DENSE_PATH: "dense path, {:.2f} of dense", Way.MMA_SP: "mma.sp, {:.2f} of wgmma"}
_WHOLE = "As `patch-compile plan --lowering plugin` says it, and for the last column with `--lowering auto`, the default."
_TYPES = (
    "LLaMA-2-7B, ratio 0.4, 128 + 128 tokens, `--lowering auto`. How much faster a decode step is than with dense 16-bit "
    "weights, its limit by bytes, and how much faster than with dense weights of the same type; then how much faster prompts"
    " and the whole workload are than with dense 16-bit weights."
)
_W8A8 = (
    "Prefill of LLaMA-2-7B with `--weights w8a8` at the ratios 0, 0.25 and 0.5 (all tiles 2:4). How much faster the linears "
    "are than dense 16-bit linears, and than dense W8A8 by a GEMM of a library that scales its sums itself, as CUTLASS "
    "and vLLM do. Then the whole prefill, over dense 16 bits, dense W8A8 and dense fp8 by libraries, and the limit of the "
    "first."
)
_W8A8_PROMPTS = ((1, 2048), (16, 512))
_PAGE_DEVICES = ("A100-80", "A6000", "RTX 4090", "H100")


def _card(name: str) -> RatedCard:
    return next(card for card in rated_cards() if card.name == name)


def device_table() -> str:
    """The cards and the sources of their numbers."""
    rates = ("cuBLASLt's share", "2:4 over dense")
    header = ["card", "sm", "GB", "GB/s", "fp16 TFLOP/s", *rates, "int8 TOP/s", *rates, "by mma.sync"]
    header += ["SMs", "GHz", "L2 MB", "source"]
    return table(header, (_device_row(d) for d in rated_cards()))


def _device_row(d: RatedCard) -> list[str]:
    rates = [
        cell
        for one in (d.products(16), d.products(8))
        for cell in (one.dense, _share(one.tensor), _share(Share(2 * one.sparse.value, one.sparse.origin)))
    ]
    numbers = [d.sm, d.memory, d.bandwidth, *rates, f"{d.rates.mma:.0%}", d.sms, f"{d.clock:.3f}", d.l2]
    return [d.name, *map(str, numbers), d.source]


def _share(share: Share) -> str:
    return f"{share.value:.2f}, {share.origin}"


def taken(slower: Slower | None) -> str:
    """Name of the path of a product: `plugin`, or on Hopper the path that is slower than dense."""
    return _SLOWER[slower.way].format(slower.speedup) if slower else "plugin"


@dataclass(frozen=True)
class Whole:
    """A model as `patch-compile plan` predicts it, and the slowest of its linears in prefill beside the dense one."""

    times: WholeRow
    slower: Slower | None

    @property
    def speedup(self) -> float:
        """Dense over planned time of the workload."""
        return self.times.end_to_end.speedup


def predict_model(
    device: RatedCard,
    model: Model,
    ratio: float,
    lowering: str = "plugin",
    *,
    assume: Assumptions = ASSUMED,
    fuse: Collection[str] | None = None,
    batch: int = BATCH,
    weights: WeightType = FLOAT16,
) -> Whole:
    """The planner's prediction for a model at a ratio."""
    linears, outline = outline_of_llama(model, fuse)
    costs = CostModel(
        PlanCard(device, assume=assume), Workload(batch=batch, prompt=PROMPT, generated=GENERATED)
    )
    ratios, types = dict.fromkeys(linears, ratio), dict.fromkeys(linears, weights)
    plans = plan_assumed(linears, _TILE, ratios, lowering, costs, None, types, outline)
    return Whole(predict_whole(plans.values(), outline, costs), _slowest(plans.values()))


def _slowest(plans: Iterable[LinearPlan]) -> Slower | None:
    found = (plan.predicted.prefill.slower for plan in plans if plan.predicted and plan.lowering == "plugin")
    return min(filter(None, found), key=lambda slower: slower.speedup, default=None)


def _whole(device: RatedCard, model: Model, **changes: Any) -> list[Whole]:
    return [predict_model(device, model, ratio, **changes) for ratio in RATIOS]


def end_to_end_table(devices: Iterable[RatedCard], models: Iterable[Model]) -> str:
    """Whole models at three ratios, and with `--lowering auto`."""
    header = ["device", "model", "dense ms", *(f"ratio {ratio:g}" for ratio in RATIOS)]
    header += ["decode alone", "STOICC, measured", "prefill", "`--lowering auto`"]
    models = list(models)
    return table(header, (_whole_row(device, model) for model in models for device in devices))


def _whole_row(device: RatedCard, model: Model) -> list[str]:
    found, auto = _whole(device, model), _whole(device, model, lowering="auto")
    published = PUBLISHED.get(device.name, ()) if model.name == "LLaMA-2-7B" else ()
    return [
        device.name,
        model.name,
        f"{found[0].times.end_to_end.dense_ms:.0f}",
        *(f"{whole.speedup:.2f}" for whole in found),
        " / ".join(f"{whole.times.decode.speedup:.2f}" for whole in found),
        " / ".join(f"{x:.2f}" for x in published),
        taken(found[0].slower),
        " / ".join(f"{whole.speedup:.2f}" for whole in auto),
    ]


def types_table(devices: Iterable[RatedCard]) -> str:
    """Weights of 16 bits, int8 and int4 side by side."""
    header = [
        "device",
        "batch",
        "weights",
        "decode step, ms",
        "over dense",
        "limit",
        "over dense of the type",
    ]
    rows = (
        _types_row(device, batch, weights)
        for device in devices
        for batch in (1, 16)
        for weights in (FLOAT16, INT8, W8A8, INT4)
    )
    return table([*header, "prefill", "whole workload"], rows)


def _types_row(device: RatedCard, batch: int, weights: WeightType) -> list[str]:
    found = predict_model(device, MODELS["LLaMA-2-7B"], 0.4, "auto", batch=batch, weights=weights).times
    step = found.decode
    speeds = (step.speedup, step.limit, step.over_library, found.prefill.speedup, found.end_to_end.speedup)
    return [
        device.name,
        str(batch),
        str(weights),
        f"{step.planned_ms / (GENERATED - 1):.2f}",
        *(f"{speed:.2f}" for speed in speeds),
    ]


def w8a8_table(devices: Iterable[RatedCard]) -> str:
    """Prefill in W8A8, with three shares of 2:4 tiles."""
    header = ["device", "prompts", "ratio", "linears, ms", "over dense", "over W8A8"]
    rows = (
        _w8a8_row(device, *prompts, ratio)
        for device in devices
        for prompts in _W8A8_PROMPTS
        for ratio in (0.0, 0.25, 0.5)
    )
    return table([*header, "prefill, ms", "over dense", "over W8A8", "over fp8", "limit"], rows)


def _w8a8_row(device: RatedCard, batch: int, prompt: int, ratio: float) -> list[str]:
    linears, outline = outline_of_llama(MODELS["LLaMA-2-7B"])
    costs = CostModel(PlanCard(device), Workload(batch=batch, prompt=prompt, generated=1))
    ratios, types = dict.fromkeys(linears, ratio), dict.fromkeys(linears, W8A8)
    plans = plan_assumed(linears, _TILE, ratios, "plugin", costs, None, types, outline)

    def times(groups: Collection[InputGroup]) -> list[Times]:
        products = products_of(plans.values(), groups)
        return [cost_together(product, gated, costs).prefill for product, gated in products]

    hybrid = sum(time.hybrid for time in times(outline.nodes_of(plans.values())))
    dense = times(outline.groups)
    bases = (sum(time.dense for time in dense), sum(time.baseline for time in dense))
    whole = predict_whole(plans.values(), outline, costs).prefill
    return [
        device.name,
        f"{batch} × {prompt}",
        f"{ratio:g}",
        f"{hybrid / 1e3:.1f}",
        *(f"{base / hybrid:.2f}" for base in bases),
        f"{whole.planned_ms:.1f}",
        *(f"{speed:.2f}" for speed in (whole.speedup, whole.over_library)),
        "–" if whole.over_fp8 is None else f"{whole.over_fp8:.2f}",
        f"{whole.limit:.2f}",
    ]


def assumption_table() -> str:
    """Every assumption by its name."""
    rows = ([f.name, str(f.default), f.metadata["what"]] for f in fields(Assumptions))
    return table(["assumption", "value", "what it is"], rows)


def markdown() -> str:
    """The part that docs/explanation/performance.md shows."""
    made_by = json.loads((plugin_sources() / "kernels" / "sass.json").read_text())["nvcc"]
    devices = [_card(name) for name in _PAGE_DEVICES]
    parts = [
        f"Instructions are those of nvcc {made_by}; batch {BATCH}, {PROMPT} + {GENERATED} tokens; dense time / hybrid time.",
        "### Whole models",
        _WHOLE,
        end_to_end_table(rated_cards(), [MODELS["LLaMA-2-7B"]]),
        end_to_end_table(devices, [MODELS["LLaMA-3.1-8B"], MODELS["Qwen2.5-0.5B"]]),
        "### Types of weights",
        _TYPES,
        types_table(devices),
        "### int8 GEMMs",
        _W8A8,
        w8a8_table(devices),
        "### Assumptions",
        assumption_table(),
        "### Cards",
        device_table(),
    ]
    return "\n\n".join(parts)


def renewed(page: str) -> str:
    """Returns the page with the part of this program replaced."""
    before, begin, rest = page.partition("<!-- roofline: begin -->\n")
    _, end, after = rest.partition("\n<!-- roofline: end -->")
    return f"{before}{begin}{markdown()}{end}{after}"


def main() -> None:
    """Renew the part of a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, required=True)
    page: Path = parser.parse_args().page
    page.write_text(renewed(page.read_text()))


if __name__ == "__main__":
    main()
