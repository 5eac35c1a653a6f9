"""Records of OUT as the stages make them, with any part changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.record import MaskRecord, summarise_tiles
from patch_compile.artifacts.command_results import LearnedAnswer, MaskedLinear
from patch_compile.artifacts.engine import BuiltEngine, EngineReport
from patch_compile.artifacts.manifest import EvalText, ModelOrigin
from patch_compile.artifacts.plan import (
    Asked,
    LinearRow,
    Node,
    PlanSummary,
    Skipped,
    Slabs,
    TileCount,
    Totals,
)
from patch_compile.artifacts.prediction import CardRow, PhaseRow, WholeRow, Workload
from patch_compile.artifacts.proof import (
    Agreement,
    BuildPerplexity,
    ComparedInputs,
    EmbeddingsDifference,
    InputsFile,
    LastWords,
    OutputsDifference,
    OutputsProof,
    PredictionsDifference,
    ProofText,
    Sentence,
    TextWindows,
    TokensProof,
    Tolerance,
    ToleranceOrigin,
    WindowAgreement,
)
from patch_compile.artifacts.report import BuildReport, DecoderReport, Kind, OnnxFile, OutputsReport

_DETAILS: dict[str, Any] = {
    "backend": "tensorrt-rtx", "version": "1.7.0", "targets": ("sm86",), "profiles": ("prefill", "decode"),
    "dtype": "float16", "patch_linears": 120, "bytes": 229_000_000, "packed_bytes": 190_000_000, "sparse_parts": 0,
    "sparse_tactics": None, "seconds": 31.4, "plugin_version": 2,
}  # fmt: skip


def engine_report(**changed: Any) -> EngineReport:
    return EngineReport(**({"file": "model.engine", "plugin": "libpatch_linear.so"} | _DETAILS | changed))


def built_engine(path: str = "/out/engine/model.engine", **changed: Any) -> BuiltEngine:
    return BuiltEngine(**({"path": path} | _DETAILS | changed))


MODEL = ModelOrigin(
    path="/models/smollm2-135m", sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
)
SKIPPED = (Skipped(name="lm_head", reason="the output head is left dense unless it is included"),)
EVAL = EvalText(name="eval.txt", path="/texts/eval.txt")


def phase_row(dense: float, planned: float, limit: float, types: float | None = None) -> PhaseRow:
    """Returns the predicted times of a phase. types: without pruned tiles, None for as long as the dense model takes."""
    types = dense if types is None else types
    ends = (planned / 1.02, planned / 0.88)
    return PhaseRow.of(
        dense=dense, types=types, library=types, fp8=None, planned=planned, ends=ends, limit=limit
    )


_PREFILL, _DECODE = phase_row(10.9, 13.4, 1.67), phase_row(221.0, 196.2, 1.54)
PLAN = PlanSummary(
    card=CardRow(name="RTX 3090", stands_for="sm86"),
    workload=Workload(batch=16, prompt=128, generated=128),
    totals=Totals(bytes_before=212_000_000, bytes_after=175_000_000),
    whole=WholeRow.of(_PREFILL, _DECODE),
)
TOLERANCE = Tolerance(share=0.0118, origin=ToleranceOrigin.ROUNDINGS, dtype="float16", roundings=65)
PROOF = TokensProof(
    text=ProofText(eval=EVAL),
    perplexity=BuildPerplexity(
        dense=15.68,
        pruned=22.19,
        on=TextWindows(name=EVAL.name, windows=8, length=1024, dtype="float32", runner="checkpoints"),
    ),
    agreement=Agreement(
        error=0.0031,
        tolerance=TOLERANCE,
        dense_error=0.41,
        feeds=5,
        window=WindowAgreement(tokens=1024, hybrid=20.53, pruned=20.52),
    ),
    difference=PredictionsDifference(kl=0.331, top1_agreement=0.672),
    generated=Sentence(
        prompt="The capital of France is",
        dense=" Paris, and it is one of the most visited cities in the world.",
        hybrid=" Paris, the city of light, and it is one of the largest cities in the world.",
    ),
    last_words=LastWords(texts=32, dense=0.656, pruned=0.531, error=0.059),
)
EMBEDDINGS = EmbeddingsDifference(pooling="mean", texts=8, mean=0.951, worst=0.917, different=0.412)


def linear_row(name: str, **changed: Any) -> LinearRow:
    """A linear that is packed."""
    made = {"name": name, "shape": (128, 128), "zeroed": 0, "tiles": TileCount(sparse=0, all=4), "lowering": "plugin",
            "reason": None, "node": Node(name=name, linears=(name,)), "panel_rows": 128, "slabs": Slabs(dense=2, sparse=0),
            "bytes_before": 32768, "bytes_after": 30000, "predicted": None, "split": None}  # fmt: skip
    return LinearRow(**(made | changed))


def learned_answer(tile_maps: Mapping[str, NDArray[np.bool_]], **changed: Any) -> LearnedAnswer:
    rows = (
        MaskedLinear(
            name=name,
            shape=(128, 128),
            zeroed=int(tiles.sum()) * 2048,
            tiles=TileCount(sparse=int(tiles.sum()), all=tiles.size),
        )
        for name, tiles in tile_maps.items()
    )
    made = {"path": "out", "kind": Kind.DECODER, "model": MODEL, "method": "oneshot", "linears": tuple(rows),
            "asked": Asked(ratio=0.35), "ratio": 0.3501, "skipped": SKIPPED, "learned": MaskRecord(),
            "where_sparse": summarise_tiles(tile_maps), "notes": (), "seconds": {"masks": 412.7}}  # fmt: skip
    return LearnedAnswer(**(made | changed))


def decoder_report(out: Path, **changed: Any) -> DecoderReport:
    made = {"path": str(out / "report.json"), "kind": Kind.DECODER, "model": MODEL, "method": "oneshot",
            "asked": Asked(ratio=0.4), "ratio": 0.4, "linears": (), "skipped": SKIPPED, "learned": MaskRecord(),
            "where_sparse": summarise_tiles({}), "plan": PLAN, "engine": built_engine(str(out / "engine/model.engine")),
            "onnx": OnnxFile(path=str(out / "onnx/model.onnx"), bytes=196_000_000),
            "notes": ("lowering: plugin (asked for)",),
            "seconds": {"masks": 412.7, "pruned checkpoint": 1.2, "export": 8.0, "pack": 2.2, "engine": 31.4}}  # fmt: skip
    return DecoderReport(**dict(PROOF), **(made | changed))


def outputs_report(
    out: Path, difference: OutputsDifference, tolerance: Tolerance, **changed: Any
) -> OutputsReport:
    made = decoder_report(out)
    kept = {name: value for name, value in made if name in BuildReport.model_fields}
    inputs = ComparedInputs(given=InputsFile(name="inputs.npz", runs=4), compared=4)
    proof = OutputsProof(
        text=None,
        inputs=inputs,
        agreement=Agreement(error=0.001, tolerance=tolerance, feeds=4),
        difference=difference,
    )
    return OutputsReport(**(kept | {"kind": Kind.ONNX} | changed), **dict(proof))
