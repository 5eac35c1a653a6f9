"""Files of OUT are read as they are written, or refused by name: which version or field it is, and how to make it anew."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from masklearn.masks.kinds.table import DENSE, PRUNED
from patch_compile.artifacts.command_results import MaskedLinear
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.plan import LinearRow, Plan, PlanSummary, TileCount, Totals, Unpredicted
from patch_compile.artifacts.prediction import CardRow, Workload
from patch_compile.artifacts.proof import OutputDifference, OutputsDifference
from patch_compile.artifacts.report import DecoderReport, read_report
from patch_compile.artifacts.state import StageRecord
from patch_compile.artifacts.verify import EngineNotRun, NotRun, PrunedPerplexity, Question, VerifyReport
from tests.artifacts.examples import engine_report, linear_row
from tests.artifacts.stages import manifest_of
from tests.mosaics import mosaic
from tests.refusals import refused
from tests.report.page.found import verified
from tests.report.page.outs import Out

DIGEST = "0" * 64
ROW = linear_row("l.0.up", bytes_before=65536, bytes_after=51200)
SUMMARY = {"totals": Totals(bytes_before=65536, bytes_after=51200), "unpredicted": Unpredicted.NO_CARD}
READERS: dict[str, Any] = {
    "engine/engine.json": EngineReport.of,
    "plan.json": Plan.of,
    "report.json": read_report,
    "verify/verify.json": VerifyReport.of,
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = Out(tmp_path / "out", {"model.layers.0.mlp.up_proj": (128, 128)})
    engine_report().write(made.path / "engine/engine.json")
    Plan(linears=(ROW,), **SUMMARY).write(made.path / "plan.json")
    return made.write(verified(made))


@pytest.mark.parametrize("name", READERS)
def test_what_is_written_is_read(out: Path, name: str) -> None:
    record = READERS[name](out)
    assert READERS[name](out.parent) is None
    record.write(out / "again.json")
    assert (again := json.loads((out / "again.json").read_text())) == json.loads((out / name).read_text())
    assert next(iter(again.items())) == ("schema", record.SCHEMA)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *(("engine/engine.json", {"schema": version}) for version in (1, 99, None)),
        ("engine/engine.json", {"patch_linears": "many"}),
        ("engine/engine.json", {"sparse_tactics": {"eligible": 1}}),
        ("engine/engine.json", {"targets": [["sm86"]]}),
        ("engine/engine.json", {"mood": "good"}),
        ("report.json", {"schema": 1}),
        ("report.json", {"kind": "tale"}),
        ("report.json", {"kind": "onnx"}),
        ("report.json", {"perplexity": {"dense": 15.68}}),
        ("report.json", {"remarks": []}),
        ("verify/verify.json", {"built": {"ran": True, "reason": "no-engine"}}),
        ("verify/verify.json", {"text": {"name": "a", "path": None, "windows": 8}}),
    ],
)
def test_another_version_or_field_is_refused_by_name(out: Path, name: str, changed: dict[str, Any]) -> None:
    content = json.loads((out / name).read_text()) | changed
    kept = {key: value for key, value in content.items() if value is not None or key != "schema"}
    (out / name).write_text(json.dumps(kept))
    with refused():
        READERS[name](out)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000])
def test_what_is_no_object_is_refused(out: Path, text: str) -> None:
    (out / "engine/engine.json").write_text(text)
    with refused():
        EngineReport.of(out)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("412.7", "1e999"),
        ("tensorrt-rtx", "tensorrt-atx"),
        ("15.68", "0.0"),
        ('"dtype": "float16", "roundings"', '"dtype": "float1", "roundings"'),  # it has no roundoff
    ],
)
def test_values_that_no_build_writes_are_refused(out: Path, was: str, becomes: str) -> None:
    path = out / "report.json"
    text = path.read_text()
    assert isinstance(read_report(out), DecoderReport) and was in text
    path.write_text(text.replace(was, becomes))
    with refused():
        read_report(out)


@pytest.mark.parametrize(
    "changed",
    [
        {"node": None},
        {"reason": {"kind": "asked"}},
        {"lowering": "dense"},
        {"lowering": "other"},
        {"reason": {"kind": "unheard-of"}, "lowering": "dense", "node": None},
        {"epilogue": "SiLU·mul"},
    ],
)
def test_linears_have_a_node_or_reason(changed: dict[str, Any]) -> None:
    LinearRow.model_validate(ROW.as_json())
    with pytest.raises(ValidationError):
        LinearRow.model_validate(ROW.as_json() | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"card": CardRow(name="A6000")},
        {"workload": Workload(batch=1, prompt=1, generated=1)},
        {"unpredicted": None},
    ],
)
def test_times_need_card_and_workload(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PlanSummary(**SUMMARY | changed)


def test_a_plan_sums_what_its_linears_save() -> None:
    dense = {"lowering": "dense", "node": None, "reason": {"kind": "asked"}}
    plan = Plan(linears=(ROW, linear_row("l.0.down", **dense)), **SUMMARY)
    assert (plan.packed, plan.saved_bytes) == (["l.0.up"], 14336 + 2768)
    assert plan.summary == PlanSummary(**SUMMARY)


@pytest.mark.parametrize("place", [("files",), ("stages", "masks", "files")], ids=["files", "stages"])
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret",
        "model/../../secret",
        "",
        pytest.param("n" * 256, id="long name"),
        pytest.param("n/" * 600, id="long path"),
    ],
)
def test_names_of_no_file_in_out_are_refused(tmp_path: Path, name: str, place: tuple[str, ...]) -> None:
    """Whoever wrote the manifest."""
    manifest = manifest_of({"masks": StageRecord("key", {"plan.json": DIGEST})})
    path = tmp_path / "manifest.json"
    manifest.write(path)
    assert Manifest.read(path) == manifest
    content: Any = json.loads(path.read_text())
    files = content
    for key in place:
        files = files[key]
    files[name] = DIGEST
    path.write_text(json.dumps(content))
    with refused():
        Manifest.read(path)


def test_questions_stay_open_until_answered(out: Path) -> None:
    found = VerifyReport.read(out / "verify/verify.json")
    assert found.built == EngineNotRun(
        reason=NotRun.NOT_HERE, error="an engine for sm86 runs on such a GPU alone"
    )
    assert found.unanswered == (Question.BUILT,)
    assert found.model_copy(update={"asked": (Question.COMPILED,)}).unanswered == ()


def test_json_has_no_infinity(out: Path) -> None:
    torn = OutputDifference(output="boxes", largest=float("inf"), relative=float("inf"), floating=True)
    other = OutputDifference(output="scores", largest=0.1, relative=0.2, floating=True)
    assert torn.relative is None
    both = OutputsDifference(outputs=(other, torn))
    assert both.worst == torn and both.relative is None
    assert OutputsDifference(outputs=(other,)).relative == 0.2
    found = VerifyReport.read(out / "verify/verify.json")
    overflowed = found.pruned.model_copy(update={"perplexity": PrunedPerplexity(dense=9.0, pruned=math.inf)})
    found.model_copy(update={"pruned": overflowed}).write(out / "verify/verify.json")
    again = VerifyReport.read(out / "verify/verify.json")
    assert again.pruned == overflowed and again.pruned.perplexity.pruned == math.inf


def test_tiles_of_every_kind_that_prunes_count() -> None:
    mask = mosaic((128, 256), (32, 64), 3, [DENSE, PRUNED["2:4"], PRUNED["8:16"]])
    row = MaskedLinear.of("q", mask)
    assert row.tiles == TileCount(sparse=int((mask.kinds != DENSE.code).sum()), all=16)
    assert int(mask.tiles.sum()) < row.tiles.sparse < 16 and row.zeroed == mask.zeroed
