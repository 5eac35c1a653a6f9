"""Predicts the kernels' times by bytes and instructions, on any card, beside a dense model.

    python benchmarks/kernels/roofline.py [--device A6000] [--json FILE] [--page docs/explanation/performance.md]

Prints the devices, every linear of three models as a ratio to the dense product, whole models, and the effect of each
assumption. `--json` writes all of it, `--page` renews the part of a page that this program writes. Nothing here is
measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from problems import SHAPES, TOKENS

from benchmarks.page_part import renewed
from patch_compile.artifacts.plan import Slower, Way, WholeRow, Workload
from patch_compile.hardware.cards import RatedCard, rated_cards
from patch_compile.packing.fusion import FUSIONS, GATED, QKV
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan
from patch_compile.planning.outline import outline_of_llama
from patch_compile.planning.planner import assumed_plans, settle_together
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.linear_roofline import Linear, Prediction, dense_path_time, predict
from patch_compile.planning.roofline.rest import Model
from patch_compile.plugin.toolchain import plugin_sources

__all__ = [
    "GOAL",
    "MODELS",
    "PUBLISHED",
    "SENSITIVITY",
    "Linear",
    "Whole",
    "dense_path_time",
    "markdown",
    "predict",
    "predict_model",
]

SHARES = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
RATIOS = (0.25, 0.35, 0.45)
BATCH, PROMPT, GENERATED = 16, 128, 128
# STOICC (a Triton fork), LLaMA-2-7B, batch 16, 128 + 128 tokens: measured by its authors
PUBLISHED = {"A6000": (1.18, 1.27, 1.38), "A100-40": (1.07, 1.11, 1.16)}
GOAL = (1.21, 1.33, 1.47)  # for LLaMA-2-7B on an A6000
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
_PAGE_DEVICES = ("A100-80", "A6000", "RTX 4090", "H100")
_PAGE_TOKENS = (1, 16, 64, 128, 512, 2048, 4096)

# Name of a change, and the assumptions with it.
SENSITIVITY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("share of bandwidth .80 instead of .90", {"bandwidth": 0.80}),
    ("share of bandwidth .95", {"bandwidth": 0.95}),
    ("tensor rate .9 of the table's", {"tensor": 0.9}),
    ("tensor rate 1.1 of the table's", {"tensor": 1.1}),
    ("shared memory and issue slots at .75 instead of .85", {"units": 0.75}),
    ("shared memory and issue slots at .95", {"units": 0.95}),
    ("hybrid kernels reach .95 of the dense ones' shares", {"hybrid": 0.95}),
    ("hybrid kernels reach .90 of the dense ones' shares", {"hybrid": 0.90}),
    ("a slab takes the kernels' loop 1.2 times the simulated clocks", {"turn": 1.2}),
    ("sustained clock .80 of boost", {"clock": 0.80}),
    ("0.5 µs between kernels instead of 1", {"launch": 0.5}),
    ("2 µs between kernels", {"launch": 2.0}),
    ("DRAM latency 250 clocks instead of 500", {"dram_latency": 250}),
    ("DRAM latency 1000 clocks", {"dram_latency": 1000}),
    ("L2 latency 200 clocks instead of 280", {"l2_latency": 200}),
    ("L2 latency 560 clocks", {"l2_latency": 560}),
    ("latency under load 6 times the idle one instead of 3", {"loaded": 6.0}),
    ("L2 half as fast", {"l2_rate": 0.5}),
    ("L2 twice as fast", {"l2_rate": 2.0}),
    ("mma.sp 1.6 times as fast as mma.sync instead of 2", {"sparse": 0.8}),
    ("all of L2 keeps what is read again, instead of half", {"l2_kept": 1.0}),
    ("a quarter of L2 keeps what is read again", {"l2_kept": 0.25}),
    ("attention reaches .60 of a product's shares", {"attention": 0.60}),
    ("the kernel for SiLU·mul that the hybrid model saves is counted", {"gating": True}),
    ("the dense product is rounded up to whole tiles too", {"waves": True}),
)
# A change of how either model is compiled, and its words.
COMPILED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the dense model computes Q, K, V, gate and up as five products", {"merged": False}),
    ("the hybrid model computes Q, K, V as three products", {"fuse": tuple(set(FUSIONS) - {QKV})}),
    ("it computes gate and up as two products", {"fuse": tuple(set(FUSIONS) - {GATED})}),
    ("both of the last two (--no-fuse)", {"fuse": ()}),
    ("tiles of 64×64 instead of 128×128, packed in panels of 64 rows", {"tile": (64, 64)}),
)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _card(name: str) -> RatedCard:
    return next(card for card in rated_cards() if card.name == name)


def device_table() -> str:
    """The cards and the sources of their numbers."""
    header = [
        "card",
        "sm",
        "GB",
        "GB/s",
        "fp16 TFLOP/s",
        "cuBLAS's share",
        "by mma.sync",
        "SMs",
        "GHz",
        "L2 MB",
        "source",
    ]
    return table(header, (_device_row(d) for d in rated_cards()))


def _device_row(d: RatedCard) -> list[str]:
    shares = f"{d.tensor:.0%}", f"{d.rates.mma:.0%}"
    numbers = [d.sm, d.memory, d.bandwidth, d.dense, *shares, d.sms, f"{d.clock:.3f}", d.l2]
    return [d.name, *map(str, numbers), d.source]


def predictions(device: RatedCard, tokens: Sequence[int] = TOKENS) -> list[tuple[str, int, list[Prediction]]]:
    """Shape, tokens and one prediction per share, for every linear of the models, each shape once."""
    shapes = dict.fromkeys(shape for found in SHAPES.values() for shape in found)
    return [
        (f"{n}×{k}", m, [predict(device, Linear(n, k, share), m) for share in SHARES])
        for n, k in shapes
        for m in tokens
    ]


def linear_table(device: RatedCard, tokens: Sequence[int] = TOKENS) -> str:
    """Dense time over hybrid time of every linear."""
    header = ["shape", "tokens", "dense µs", *(f"p = {share:g}" for share in SHARES), "limit at .9"]
    header += ["kernel at .9", "bound at .9", "taken"]
    return table(header, (_linear_row(*found) for found in predictions(device, tokens)))


def _linear_row(shape: str, tokens: int, found: list[Prediction]) -> list[str]:
    at = found[SHARES.index(0.9)]
    return [
        shape,
        str(tokens),
        f"{at.dense_microseconds:.1f}",
        *(f"{p.speedup:.2f}" for p in found),
        f"{at.share:.0%}",
        f"{at.config}, {at.parts} parts" if at.parts > 1 else at.config,
        at.bound,
        taken(at.slower),
    ]


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
    tile: tuple[int, int] = (128, 128),
    fuse: Collection[str] | None = None,
    merged: bool = True,
) -> Whole:
    """The planner's prediction for a model at a ratio; merged: the dense model multiplies linears of one input at once."""
    linears, outline = outline_of_llama(model, fuse)
    outline = outline if merged else replace(outline, groups=())
    costs = CostModel(
        PlanCard(device, assume=assume), Workload(batch=BATCH, prompt=PROMPT, generated=GENERATED)
    )
    plans = assumed_plans(linears, tile, dict.fromkeys(linears, ratio), lowering, costs)
    plans = settle_together(plans, lowering, outline, costs)
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


def assumption_table() -> str:
    """Every assumption by its name."""
    rows = ([f.name, str(f.default), f.metadata["what"]] for f in fields(Assumptions))
    return table(["assumption", "value", "what it is"], rows)


def sensitivity_table(device: RatedCard, model: Model) -> str:
    """The whole model's speed-up with one thing changed at a time."""
    rows = [["as assumed and as compiled", *_speedups(device, model)]]
    rows += [
        [what, *_speedups(device, model, assume=replace(ASSUMED, **change))] for what, change in SENSITIVITY
    ]
    rows += [[what, *_speedups(device, model, **change)] for what, change in COMPILED]
    if (device.name, model.name) == ("A6000", "LLaMA-2-7B"):
        rows.insert(0, ["goal", *(f"{goal:.2f}" for goal in GOAL)])
    return table([f"{device.name}, {model.name}", *(f"ratio {ratio:g}" for ratio in RATIOS)], rows)


def _speedups(device: RatedCard, model: Model, **changes: Any) -> list[str]:
    return [f"{whole.speedup:.3f}" for whole in _whole(device, model, **changes)]


def report(device: RatedCard) -> str:
    """All four tables for one device."""
    parts = ["Devices", device_table(), f"Linears on {device.name}: dense time / hybrid time (p: 2:4 slabs)"]
    parts += [linear_table(device), f"Models, batch {BATCH}, {PROMPT} + {GENERATED} tokens: dense / hybrid"]
    parts += [end_to_end_table(rated_cards(), MODELS.values()), "Assumptions", assumption_table()]
    parts += ["How the answer moves with them", sensitivity_table(device, MODELS["LLaMA-2-7B"])]
    return "\n\n".join(parts)


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
        "### Linears",
    ]
    for device in devices:
        parts += [f"{device.name}:", _page_linears(device)]
    parts += ["### Assumptions", assumption_table(), "### How the answer moves with them"]
    parts += [sensitivity_table(_card("A6000"), MODELS["LLaMA-2-7B"])]
    parts += ["### Cards", device_table()]
    return "\n\n".join(parts)


def _page_linears(device: RatedCard) -> str:
    header = ["shape", "tokens", *(f"p = {share:g}" for share in SHARES), "bound at .9", "taken"]
    shapes = ("4096×4096", "11008×4096")
    rows = (_linear_row(*found) for found in predictions(device, _PAGE_TOKENS) if found[0] in shapes)
    return table(header, ([*row[:2], *row[3 : 3 + len(SHARES)], *row[-2:]] for row in rows))


def _as_json(device: RatedCard) -> dict[str, Any]:
    linears = [
        {"shape": shape, "tokens": m, "share": share} | asdict(p) | {"speedup": p.speedup}
        for shape, m, found in predictions(device)
        for share, p in zip(SHARES, found, strict=True)
    ]
    models = [
        {"device": d.name, "model": model.name, "ratio": ratio, "lowering": lowering} | whole.times.as_json()
        for d in rated_cards()
        for model in MODELS.values()
        for lowering in ("plugin", "auto")
        for ratio, whole in zip(RATIOS, _whole(d, model, lowering=lowering), strict=True)
    ]
    changes = [(what, {"assume": replace(ASSUMED, **change)}) for what, change in SENSITIVITY] + [*COMPILED]
    moved = {
        what: [whole.speedup for whole in _whole(device, MODELS["LLaMA-2-7B"], **change)]
        for what, change in changes
    }
    return {
        "device": asdict(device),
        "assumptions": asdict(ASSUMED),
        "linears": linears,
        "models": models,
        "sensitivity": moved,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, and write the files asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        choices=[card.name for card in rated_cards()],
        default="A6000",
        help="of the linears and sensitivities",
    )
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--page", type=Path, help="renew its generated part, and print nothing")
    asked = parser.parse_args(argv)
    device = _card(asked.device)
    if asked.json:
        asked.json.write_text(json.dumps(_as_json(device), indent=1) + "\n")
    if asked.page:
        asked.page.write_text(renewed(asked.page.read_text(), "roofline", markdown()))
    else:
        print(report(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
