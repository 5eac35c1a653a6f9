"""Builds and plans whose weight types are chosen for a speed, with every stage real."""

import json

import pytest

from masklearn.masks.maskset import MaskSet
from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.pipeline.plan import plan
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import verify
from tests.builds import build, check_out, narrow_model
from tests.refusals import refused


def asked(settings, model, **given):
    own = {key: value for key, value in settings.items() if key not in ("ratio", "lowering")}
    return own | {
        "model": model, "method": "sparsegpt", "target": "l4", "tile": (128, 128), "weights": "auto"
    } | given  # fmt: skip


def types_of(masks):
    return {name: str(masks.grids[name].type) if name in masks.grids else "float16" for name in masks}


def test_a_speed_chooses_proven_types(settings, make_model, capsys):
    report = build(asked(settings, narrow_model(make_model), speedup=1.06))
    out = settings["out"]
    check_out(out, report, "model/model.safetensors")
    assert 1.06 <= report["plan"]["whole"]["end_to_end"]["speedup"] < 1.08
    rows = {row["name"]: row["weights"] for row in json.loads((out / "plan.json").read_text())["linears"]}
    types = types_of(MaskSet.load(out / "masks.safetensors"))
    assert rows == types and len({*types.values()}) > 1
    found = inspect_onnx(out / "onnx/model.onnx")
    assert not found.faults and {row["weights"] for row in found.rows} <= {*rows.values()}
    assert report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    assert report["learned"]["choice"]["rounding"] > 0
    show(Result(read_report(out)).sections())
    assert "weight types chosen for a speed-up of 1.06 on L4" in capsys.readouterr().out
    recipe = Recipe.of_build(out)
    assert recipe.weights.startswith("float16,int8") and recipe.weights.count("float16,int8,int4") == 3
    assert recipe.speedup == 1.06


def test_baselines_take_chosen_types_and_ratio(settings, make_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of baselines
    build(asked(settings, narrow_model(make_model), speedup=1.06))
    masks = MaskSet.load(settings["out"] / "masks.safetensors")
    asks = {"only": "pruned", "baselines": "dense-rounded,unstructured"}
    request = VerifyRequest.parse(asks)
    rows = {row.name: row for row in verify(settings["out"], request).baselines.rows}
    assert rows["sparsegpt"].bytes_per_weight == masks.packed_bytes_per_weight
    assert rows["unstructured"].ratio == pytest.approx(masks.ratio, abs=0.02)
    assert rows["sparsegpt"].bytes_per_weight <= rows["dense-rounded"].bytes_per_weight < 2.0


def test_plans_name_the_losses_behind_types(settings, make_model, capsys):
    """It tells so even if all linears get one type."""
    model = narrow_model(make_model)
    note = "weight types: by the losses of SmolLM2-135M"
    for weights, told in (("int8,int4", True), ("int8", False)):
        planned = plan(Recipe.parse(asked(settings, model, speedup=1.02, weights=weights)))
        assert planned.weights == "int8" and planned.assumes_losses == told
        show(Result(planned).sections())
        assert (note in " ".join(capsys.readouterr().out.split())) == told


@pytest.mark.parametrize(
    "given",
    [
        {"ratio": 0.4},
        {"mask": "masks.safetensors"},
        {"speedup": 1.2, "method": "magnitude"},
        {"speedup": 1.2, "weights": "int8,bfloat16"},
        {"bytes_per_weight": 0.9},
    ],
)
def test_what_chooses_no_types_is_named(settings, given):
    with refused():
        build(asked(settings, settings["model"], **given))
