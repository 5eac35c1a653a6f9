"""Builds that prune only the linears that gain on the target, or the tiles that a speed needs."""

import json
import math

import onnx
import pytest

from masklearn.choice.goal import parse_ratio
from masklearn.masks.kinds.table import KINDS
from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.pipeline.learn import learn
from patch_compile.pipeline.prepare import prepare
from patch_compile.pipeline.stages import keys_of
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from patch_compile.sources.checkpoint.source import CheckpointSource
from tests.builds import build, narrow_model, zeros
from tests.refusals import refused


def test_where_no_linear_gains_the_user_is_asked(settings, monkeypatch):
    monkeypatch.setattr(CheckpointSource, "learn", None)  # must not be called
    for lowering in ("auto", "dense"):
        with refused():
            build(settings | {"lowering": lowering, "target": "a6000"})
        assert not settings["out"].exists()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ratio": "*=0.3,mlp.*=0.5,down_proj=0"},
        {"per_layer": True},
        {"lowering": "up_proj=dense,q_proj=plugin"},
    ],
)
def test_dense_linears_gain_no_zeros(settings, make_model, change, capsys):
    model = narrow_model(make_model)
    small = {"model": model, "method": "magnitude", "lowering": "auto", "target": "l4", "tile": (128, 128)}
    report = build(settings | small | change)
    before, after = zeros(model), zeros(settings["out"] / "model")
    lowerings = {row["name"]: row["lowering"] for row in report["linears"]}
    assert {*lowerings.values()} == {"dense", "plugin"}
    for name, lowering in lowerings.items():
        weight = f"{name}.weight"
        assert (after[weight] == before[weight]) == (lowering == "dense"), name
    choice, covered = report["learned"]["choice"], sum(math.prod(row["shape"]) for row in report["linears"])
    gains = choice["gains"]
    assert gains["gaining"] == [*lowerings.values()].count("plugin") and gains["card"] == "L4"
    assert report["ratio"] == sum(row["zeroed"] for row in report["linears"]) / covered
    assert report["asked"]["ratio"] == parse_ratio((settings | change)["ratio"])
    asked = json.loads((settings["out"] / "manifest.json").read_text())["ratio"]["asked"]
    assert choice["reached"] == pytest.approx(gains["ratio_of_counted"], rel=1e-5)
    full = all(row["tiles"]["sparse"] == row["tiles"]["all"] for row in report["linears"] if row["zeroed"])
    assert full or abs(gains["ratio_of_counted"] - asked) * covered <= 128 * 128
    show(Result(read_report(settings["out"])).sections())
    assert f"{gains['gaining']} of 7 linears gain by pruning on L4" in capsys.readouterr().out


def test_trained_masks_spare_linears_without_gain(settings, make_model):
    model = narrow_model(make_model)
    small = {"model": model, "method": "patch-tile", "prior": "magnitude", "steps": 2, "repair": "none", "lowering": "auto",
             "target": "l4", "tile": (128, 128), "batch": 1}  # fmt: skip
    report = build(settings | small)
    before, after = zeros(model), zeros(settings["out"] / "model")
    for row in report["linears"]:
        weight = f"{row['name']}.weight"
        assert (after[weight] == before[weight]) == (row["lowering"] == "dense"), row["name"]
    assert 0 < report["learned"]["choice"]["gains"]["gaining"] < 7


def test_auto_reports_small_dense_linears(settings, capsys):
    """With tiny linears the engine is only as fast as the dense engine, and the report must not call that a success."""
    learned = settings | {"out": settings["out"].with_name("learned"), "method": "magnitude"}
    learn(Recipe.parse(learned))
    given = {k: v for k, v in settings.items() if k != "ratio"} | {
        "mask": learned["out"] / "masks.safetensors"
    }
    report = build(given | {"lowering": "auto", "target": "a6000"})
    reason = "it is too small: on A6000 even all 2:4 it is predicted no faster than dense"
    assert {row["lowering"] for row in report["linears"]} == {"dense"}
    kinds = {row["reason"]["kind"]: row["reason"]["card"] for row in report["linears"]}
    assert kinds.keys() <= {"small-linear", "no-sparse-tile"} and kinds["small-linear"] == "A6000"
    written = json.loads((settings["out"] / "plan.json").read_text())
    assert written["linears"] == report["linears"] and written["card"]["name"] == "A6000"
    assert report["plan"] == {k: v for k, v in written.items() if k not in ("linears", "schema", "choice")}
    graph = onnx.load(settings["out"] / "onnx" / "model.onnx", load_external_data=False).graph
    assert not any(node.op_type == "PatchLinear" for node in graph.node)
    show(Result(read_report(settings["out"])).sections())
    said = capsys.readouterr().out
    assert f": {reason}" in said and "so nothing is gained on A6000" in said


def test_other_workloads_reuse_the_masks(settings):
    def keys(**change):
        recipe = Recipe.parse(settings | change)
        return keys_of(prepare(recipe, Progress(), force=False, resume=False))

    first = keys()
    for change in ({"fuse": "none"}, {"generated_tokens": 4}, {"target": "h100"}):
        again = keys(**change)
        assert again["masks"] == first["masks"] and again["onnx"] != first["onnx"], change


def test_a_speed_chooses_the_tiles(settings, make_model, capsys):
    model = narrow_model(make_model)
    fast = {k: v for k, v in settings.items() if k != "ratio"} | {
        "model": model, "method": "magnitude", "lowering": "auto", "target": "l4", "tile": (128, 128)
    }  # fmt: skip
    report = build(fast | {"speedup": 1.03})
    assert 1.03 <= report["plan"]["whole"]["end_to_end"]["speedup"] < 1.04
    choice, planned = report["learned"]["choice"], json.loads((settings["out"] / "plan.json").read_text())
    assert planned["choice"] == planned["choice"] | choice
    zeroed = sum(kind.zeros * choice["kinds"].get(kind.name, 0.0) for kind in KINDS)
    assert zeroed == pytest.approx(report["ratio"], rel=1e-5)
    assert choice["bound"] <= choice["loss"] < 1.05 * choice["bound"]
    assert 1.03 == choice["asked"] <= choice["reached"] < 1.04
    assert {row["lowering"] for row in report["linears"] if row["tiles"]["sparse"]} == {"plugin"}
    show(Result(read_report(settings["out"])).sections())
    said = capsys.readouterr().out
    assert (
        "(asked: a speed-up of 1.03), method magnitude" in said and "(the linear program), a gap of" in said
    )


def test_targets_without_cards_get_no_predictions(settings, unrated_sm120):
    job = prepare(Recipe.parse(settings | {"target": "sm120"}), Progress(), force=False, resume=False)
    assert job.costs is None
    asked = {k: v for k, v in settings.items() if k != "ratio"} | {"target": "sm120", "speedup": 1.3}
    with refused():
        prepare(Recipe.parse(asked), Progress(), force=False, resume=False)


def test_unreachable_speeds_are_refused_before_work(settings, monkeypatch):
    monkeypatch.setattr(CheckpointSource, "learn", None)  # must not be called
    with refused():
        build({k: v for k, v in settings.items() if k != "ratio"} | {"speedup": 1.3})
    assert not settings["out"].exists()
