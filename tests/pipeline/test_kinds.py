"""Builds with tiles of several kinds: learned, packed, proven on ONNX Runtime, and compiled to an engine."""

from pathlib import Path
from typing import Any

import pytest

from masklearn.masks.kinds.table import KINDS
from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import covered_linears
from masklearn.quant.table import W8A8
from patch_compile.inspection import inspect_path
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.pipeline.plan import plan
from patch_compile.recipe import Recipe
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import verify
from tests.builds import build, check_out
from tests.mosaics import mosaic
from tests.refusals import refused


def test_masks_of_several_kinds_are_packed_and_proven(settings: dict[str, Any], make_model: Any) -> None:
    settings["model"] = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=1)
    report = build(settings | {"kinds": "8:16,12:16", "ratio": 0.3})
    out: Path = settings["out"]
    check_out(out, report, "model/model.safetensors")
    agreement = report["agreement"]
    assert 0 < agreement["error"] <= agreement["tolerance"]["share"]
    masks = MaskSet.load(out / "masks.safetensors")
    there = {kind.name for mask in masks.values() for kind in mask.by_kind()}
    assert {"8:16", "12:16"} <= there and "2:4" not in there
    found = inspect_onnx(out / "onnx/model.onnx")
    assert not found.faults
    slabs = {name: sum(row[name] for row in found.rows) for name in ("8:16 slabs", "12:16 slabs")}
    assert all(slabs.values())
    packed = [row for row in report["linears"] if row["lowering"] == "plugin"]
    # A gate and its up have the same slabs, half of whose rows are its own.
    apart = [row for row in packed if not row["node"]["gated"] or row["name"] == row["node"]["linears"][0]]
    for name, count in slabs.items():
        assert count == sum(row["slabs"]["others"].get(name.removesuffix(" slabs"), 0) for row in apart)
    assert sum(row["bytes_after"] for row in packed) == sum(row["bytes"] for row in found.rows) + 4 * sum(
        len(node.attributes["index"].value) for node in _nodes(out / "onnx/model.onnx")
    )
    assert report["plan"]["unpredicted"] is None and report["plan"]["whole"]

    given = {name: value for name, value in settings.items() if name != "ratio"}
    recipe = Recipe.parse(given | {"mask": out / "masks.safetensors", "out": out.with_name("engine")})
    hybrid, dense = (
        plan(recipe.model_copy(update={"lowering": how, "target": "a6000"})) for how in ("plugin", "dense")
    )
    assert {row.lowering for row in dense.linears} == {"dense"}
    # A node's index lists the kinds of all of its linears, which a plan does not know yet.
    packed_bytes = sum(row["bytes_after"] for row in report["linears"])
    assert hybrid.totals.bytes_after == pytest.approx(packed_bytes, rel=1e-3)
    times = [row.predicted.decode for row in hybrid.linears if row.slabs.others]
    assert times and all(time.hybrid > 0 for time in times)


def test_w8a8_mosaics_with_six_eight_are_proven(
    settings: dict[str, Any], make_model: Any, tmp_path: Path
) -> None:
    """Given masks: q, k and v are stacked, gate and up alternate by panel, and all have slabs of 6:8."""
    model = settings["model"] = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=1)
    kinds = tuple(kind for kind in KINDS if kind.goes_with(W8A8))
    masks = {
        name: mosaic(shape, (64, 64), seed, kinds)
        for seed, (name, shape) in enumerate(covered_linears(model).linears.items())
    }
    about = {"method": "random", "seed": 0, "base_model": "tiny", "base_sha256": "", "ratio_asked": 0.3}
    MaskSet(masks, **about).save(tmp_path / "masks.safetensors")
    del settings["ratio"]
    settings |= {"mask": tmp_path / "masks.safetensors"}
    with refused():
        build(settings)
    report = build(settings | {"weights": "w8a8"})
    out: Path = settings["out"]
    check_out(out, report, "model/model.safetensors")
    assert 0 < report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    compiled = verify(out, VerifyRequest.parse({"only": "compiled", "lengths": "1,7"})).compiled
    assert compiled.passed and len(compiled.runs) > 1
    found = inspect_onnx(out / "onnx/model.onnx")
    assert not found.faults
    assert len(found.rows) == 4 and all(row["6:8 slabs"] and row["weights"] == "w8a8" for row in found.rows)
    assert all(sum(row[f"{kind} slabs"] for row in found.rows) for kind in kinds)
    inside = inspect_path(tmp_path / "masks.safetensors")
    assert "6:8" in inside.facts["kinds of tiles"] and not inside.faults


@pytest.mark.rtx
def test_an_engine_of_several_kinds(settings: dict[str, Any], make_model: Any) -> None:
    """With `auto` kinds, tiles are chosen for the linears that gain on the target; the plugin takes all of its nodes."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    settings["model"] = make_model(**sizes)
    asked = {"kinds": "auto", "ratio": 0.4, "lowering": "plugin", "tile": (64, 64), "backend": "tensorrt-rtx"}
    report = build(settings | asked | {"target": "sm86", "max_shapes": "batch=2,sequence=32,past=0"})
    packed = [row for row in report["linears"] if row["lowering"] == "plugin"]
    kinds = {kind for row in packed for kind in row["slabs"]["others"]}
    assert len(kinds) > 1 and report["engine"]["patch_linears"] == len(
        {row["node"]["name"] for row in packed}
    )
    assert not inspect_onnx(settings["out"] / "onnx/model.onnx").faults


def _nodes(path: Path) -> list[Any]:
    import onnx_ir as ir

    return [node for node in ir.load(path).graph if node.op_type == "PatchLinear"]
