"""Records in every state that has a sentence of its own, each with the lines that it gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from masklearn import BaselineRow, BesideBaselines
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import (
    ChoiceRecord,
    MaskRecord,
    PermutedRecord,
    RepairRecord,
    SmoothedRecord,
    TrainRecord,
)
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.artifacts.bench import BenchReport, SlowedBy, Spread
from patch_compile.artifacts.engine import SparseTactics
from patch_compile.artifacts.plan import Node, Reason, ReasonKind, Slower, Way
from patch_compile.artifacts.proof import (
    AskedTolerance,
    ComparedInputs,
    InputsFile,
    OutputDifference,
    OutputsDifference,
    RandomInputs,
    TextWindows,
    Tolerance,
    ToleranceOrigin,
)
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.verify import EngineNotRun, FirstDifference, NotRun, Question
from patch_compile.planning.lowering import plan_linear
from patch_compile.report.bench import bench_notes
from patch_compile.report.learned import learned_lines, mosaic_line
from patch_compile.report.linears import compiled_types, fused_words, types_line
from patch_compile.report.prediction import (
    choice_line,
    lowering_words,
    node_words,
    reason_lines,
    reason_words,
)
from patch_compile.report.quality import baselines, output_warnings
from patch_compile.report.verify import built, compiled, sparsity_words, tolerance_words, unanswered_words
from tests.artifacts.benched import benched
from tests.artifacts.examples import TOLERANCE, engine_report, linear_row, outputs_report
from tests.planning.assumed import assumed_mask
from tests.report.page.found import compiled as compared
from tests.report.page.found import verified
from tests.report.page.outs import Out

DERIVED = Tolerance(share=0.0083, origin=ToleranceOrigin.ROUNDINGS, dtype="float16", roundings=32, layers=2)
TEXT = TextWindows(name="a.txt", windows=8, length=1024, dtype="float16", runner="checkpoints")
REASONS: dict[ReasonKind, dict[str, Any]] = {
    ReasonKind.SMALL_TILES: {"tile": (128, 4)},
    ReasonKind.PROMPTS: {"slower": Slower(way=Way.MMA_SP, speedup=0.6)},
    ReasonKind.DENSE_PRODUCT: {"product": ("q_proj", "v_proj")},
}
NODES: dict[str, dict[str, Any]] = {
    "plain": {"linears": ("m.down",)},
    "residual": {"linears": ("m.down",), "residual": True},
    "gelu": {"linears": ("m.fc1",), "activation": "gelu_tanh", "residual": True},
    "gated": {"linears": ("m.gate", "m.up"), "activation": "silu", "gated": True},
    "l.0.a.q+k+v": {"linears": ("l.0.a.q", "l.0.a.k", "l.0.a.v")},
}
LEARNED: dict[str, dict[str, Any]] = {
    "ratio": {"choice": ChoiceRecord(unit="ratio", asked=0.35, per_layer=True, reached=0.35)},
    "ratios": {"choice": ChoiceRecord(unit="ratio", asked="*=0,mlp.*=0.5", reached=0.3)},
    "time": {"choice": ChoiceRecord(unit="microseconds", asked=812.4, reached=813.0)},
    "no repair": {"repair": RepairRecord(method="none", why="an ONNX file")},
    "repair": {"repair": RepairRecord(method="distill", steps=42, tokens=64512, kl_first=0.614, kl_last=0.51,
                                      scale_steps=21, scales_first=0.603, scales_last=0.531)},
    "scales only": {"repair": RepairRecord(method="none", why="no weight is pruned", kl_first=0.0, kl_last=0.0, tokens=64512,
                                           scale_steps=63, scales_first=0.0978, scales_last=0.0915)},
    "repair without gain": {"repair": RepairRecord(method="distill", kept=False, steps=12, tokens=12288, kl_first=0.25,
                                                   kl_last=0.26)},
    "repaired outputs": {"repair": RepairRecord(method="distill", steps=40, tokens=20480, error_first=0.2,
                                                error_last=0.1)},
    "training": {"train": TrainRecord(prior="wanda", steps=33, tokens=1000, first={}, last={}, kept="last",
                                      kl={"last": 0.5})},
    "permuted": {"permuted": PermutedRecord(parts=2, channels=3072, dense_error=1e-7)},
    "smoothed": {"smoothed": SmoothedRecord(sites=9, scaled=7, strength=0.5, dense_error=0.0,
                                            whole=tuple(f"encoder.layer.{i}.output.dense" for i in range(3)))},
}  # fmt: skip


def of_tolerances() -> Iterator[tuple[str, Any]]:
    asked = AskedTolerance(atol=1e-7, rtol=0.0, statistic="max")
    for changes in (
        {},
        {"layers": None, "rounding_models": 2},
        {"origin": ToleranceOrigin.ROUNDED_LINEARS},
        {"origin": ToleranceOrigin.ROUNDED_INPUTS},
        {"origin": ToleranceOrigin.SIXTEEN_BITS},
        {"asked": asked},
    ):
        yield "tolerance", tolerance_words(DERIVED.model_copy(update=changes))


def of_inputs() -> Iterator[tuple[str, Any]]:
    yield "text", TEXT
    yield "text", TEXT.model_copy(update={"windows": 1, "runner": None})
    yield "text", TEXT.model_copy(update={"dtype": "float32", "runner": "checkpoints"})
    yield "inputs", ComparedInputs(given=InputsFile(name="x.npz", runs=5), compared=1)
    drawn = RandomInputs(runs=4, seed=0, shapes={"x": (2, 64), "s": ()})
    yield "inputs", ComparedInputs(given=drawn, compared=4)


def of_answers(folder: Path) -> Iterator[tuple[str, Any]]:
    first = FirstDifference(tensor="h", node="n", op="MatMul", linear="m.up", error=None, tolerance=0.01)
    wrong = compared().model_copy(update={"passed": False})
    for changes in (
        {"output": "y"},
        {"first_difference": first},
        {"first_difference": first.model_copy(update={"linear": None})},
        {},
    ):
        yield "wrong", dict(compiled(wrong.model_copy(update=changes), Kind.ONNX).facts)
    for reason in NotRun:
        yield reason, dict(built(EngineNotRun(reason=reason)).facts)
    found = verified(Out(folder, {"model.layers.0.mlp.up_proj": (128, 128)}))
    yield "unanswered", unanswered_words(found)
    no_engine = EngineNotRun(reason=NotRun.NO_ENGINE)
    yield "unanswered", unanswered_words(found.model_copy(update={"built": no_engine, "where": None}))
    assert found.unanswered == (Question.BUILT,)


def of_warnings() -> Iterator[tuple[str, Any]]:
    for relative, share, kind, inputs, floating in (
        (0.97, 0.01, Kind.ONNX, None, True),
        (None, 0.01, Kind.ONNX, None, True),
        (0.97, 0.01, Kind.ONNX, "inputs.npz", True),
        (0.97, 0.01, Kind.ENCODER, None, True),
        (0.1, 0.67, Kind.ONNX, None, True),
        (0.2, 0.01, Kind.ONNX, None, True),
        (1.0, 0.01, Kind.ONNX, None, False),
    ):
        output = OutputDifference(output="y", largest=relative, relative=relative, floating=floating)
        allowed = TOLERANCE.model_copy(update={"share": share})
        learned = MaskRecord(inputs=inputs)
        difference = OutputsDifference(outputs=(output,))
        report = outputs_report(Path("out"), difference, allowed, kind=kind, learned=learned)
        yield f"moved by {relative}", list(output_warnings(report))


def of_tactics() -> Iterator[tuple[str, Any]]:
    for counts in ((196, 140), (39, 0), (0, 0), (None, None), (3, None), None):
        tactics = SparseTactics(eligible=counts[0], chosen=counts[1]) if counts else None
        yield f"tactics {counts}", sparsity_words(engine_report(sparse_parts=12, sparse_tactics=tactics))
    yield "no products", sparsity_words(engine_report(sparse_parts=0, sparse_tactics=None))


def with_clocks(**changed: Any) -> BenchReport:
    report = benched()
    assert report.clocks
    return report.model_copy(update={"clocks": report.clocks.model_copy(update=changed)})


def of_times() -> Iterator[tuple[str, Any]]:
    clocks = benched().clocks
    assert clocks and clocks.during
    during = clocks.during
    for high in (1660, 1800):
        seen = during.model_copy(update={"sm_mhz": Spread(min=1620, median=high, max=high)})
        yield f"up to {high} MHz", list(bench_notes(with_clocks(during=seen)))
    yield "slowed", list(bench_notes(with_clocks(slowed=(SlowedBy.POWER_LIMIT, SlowedBy.TEMPERATURE))))
    noisy = benched().rows[0].model_copy(update={"speedup_p10_p90": (0.9, 1.1)})
    yield "noise", list(bench_notes(benched().model_copy(update={"rows": (noisy,)})))


def of_baselines() -> Iterator[tuple[str, Any]]:
    def row(name: str, ratio: float, value: float, taken: float | None = None) -> BaselineRow:
        return BaselineRow(
            name=name,
            ratio=ratio,
            perplexity=value,
            seconds=1.0,
            deployable=True,
            bytes_per_weight=taken or 2 - 1.75 * ratio,
        )

    wanda, dense = row("wanda", 0.35, 90.0), row("dense", 0, 22.0)
    rounded = row("dense-rounded", 0, 22.5)
    for beaten_by, *rows in (
        (("uniform-2:4",), row("oneshot", 0.25, 40.0, 1.625), row("uniform-2:4", 0.5, 39.0, 1.125)),
        ((), wanda, dense, rounded),
        ((), wanda, dense),
        ((), row("wanda", 0.35, float("inf")), dense, rounded),
    ):
        found = BesideBaselines(
            rows=tuple(rows), beaten_by=beaten_by, windows=8, length=1024, dtype="float32"
        )
        yield f"beaten by {beaten_by}", list(baselines(found).lines[1:])


def of_plans() -> Iterator[tuple[str, Any]]:
    for kind in ReasonKind:
        yield kind, reason_words(Reason(kind=kind, card="A6000", **REASONS.get(kind, {})))
    yield (
        "dense path",
        reason_words(
            Reason(kind=ReasonKind.PROMPTS, card="H100", slower=Slower(way=Way.DENSE_PATH, speedup=0.987))
        ),
    )
    for name, changes in NODES.items():
        node = Node(**({"name": name} | changes))
        yield name, [node_words(node, linear) for linear in node.linears]
    speed = ChoiceRecord(unit="speedup", asked=1.3, reached=1.31, card="A6000", loss=10.05, bound=10.0)
    for changes in (
        {},
        {"unit": "budget_ms", "asked": 25.0},
        {
            "unit": "bytes_per_weight",
            "asked": 1.2,
            "card": None,
            "rounding": 0.5,
            "loss": 10.55,
            "bound": 10.4,
        },
        {"rounding": 0.5, "loss": 0.5, "bound": 0.5},
    ):
        yield "choice", choice_line(speed.model_copy(update=changes))
    for name, part in LEARNED.items():
        yield name, list(learned_lines(MaskRecord.model_validate(part)))


def of_nodes() -> Iterator[tuple[str, Any]]:
    nodes = [
        Node(name=f"{i}.gate+up", linears=(f"{i}.gate", f"{i}.up"), activation="silu", gated=True)
        for i in range(2)
    ]
    rows = [linear_row(name, node=node) for node in nodes for name in node.linears]
    rows.append(linear_row("0.down", node=Node(name="0.down", linears=("0.down",), residual=True)))
    asked = Reason(kind=ReasonKind.ASKED)
    plain = [linear_row("0.q"), linear_row("0.k", lowering="dense", node=None, reason=asked)]
    yield "fused", fused_words([*rows, *plain])
    yield "fused", fused_words(plain)


def of_types() -> Iterator[tuple[str, Any]]:
    about: dict[str, Any] = {
        "method": "none",
        "seed": 0,
        "base_model": "m",
        "base_sha256": "",
        "ratio_asked": 0.5,
    }
    masks = {name: assumed_mask((256, 256), (128, 128), 0.5) for name in ("a", "b")}
    for own in ((), ("a",), ("a", "b")):
        grids = {name: Grid(INT8, np.ones(256, np.float32)) for name in own}
        yield f"{len(own)} of 2 in int8", mosaic_line(MaskSet(masks, **about, grids=grids))
    mask = assumed_mask((4096, 4096), (128, 128), 0.4)
    usual, int8 = plan_linear("a.x", mask), plan_linear("b.x", mask, weights=INT8)
    dense = plan_linear("c.y", mask, "dense", weights=INT8)
    yield "lowering", [lowering_words(row) for row in (usual, int8, dense)]
    for rows in ((usual,), (usual, int8, dense), (int8,)):
        yield f"{len(rows)} compiled", types_line(compiled_types(rows))
    yield "reasons", list(reason_lines([usual, int8, dense]))
    empty = {"node": None, "lowering": "dense", "reason": Reason(kind=ReasonKind.NO_SPARSE_TILE)}
    names = [
        f"model.layers.{i}.{kind}" for kind, count in (("v_proj", 3), ("up_proj", 2)) for i in range(count)
    ]
    asked = linear_row(
        "model.layers.2.up_proj", node=None, lowering="split", reason=Reason(kind=ReasonKind.ASKED)
    )
    yield (
        "reasons",
        list(reason_lines([*(linear_row(name, **empty) for name in names), asked, linear_row("a.down")])),
    )


def all_words(folder: Path) -> Iterator[str]:
    """Yield a line for each sentence, behind the state that it is said in."""
    makers = (
        of_tolerances,
        of_inputs,
        of_warnings,
        of_tactics,
        of_times,
        of_baselines,
        of_plans,
        of_nodes,
        of_types,
    )
    for found in (of_answers(folder), *(make() for make in makers)):
        for state, told in found:
            for line in (told or ["nothing"]) if isinstance(told, list) else [told]:
                yield f"{state}: {line}"
