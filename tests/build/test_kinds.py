"""Builds with tiles of several kinds: learned, packed, proven on ONNX Runtime, and refused where no kernel runs them."""

from pathlib import Path
from typing import Any

import pytest

from masklearn.masks.maskset import MaskSet
from patch_compile.build.plan import plan
from patch_compile.build.prepare import prepare
from patch_compile.errors import PatchCompileError
from patch_compile.inspect.onnx_graph import inspect_onnx
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from tests.builds import build, check_out


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
    for name, count in slabs.items():
        assert count == sum(row["slabs"]["others"].get(name.removesuffix(" slabs"), 0) for row in packed)
    assert sum(row["bytes_after"] for row in packed) == sum(row["bytes"] for row in found.rows) + 4 * sum(
        len(node.attributes["index"].value) for node in _nodes(out / "onnx/model.onnx")
    )
    assert report["plan"]["unpredicted"] == "no-kernel"

    given = {"mask": out / "masks.safetensors", "out": out.with_name("engine"), "backend": "tensorrt-rtx"}
    recipe = Recipe.parse({name: value for name, value in settings.items() if name != "ratio"} | given)
    with pytest.raises(PatchCompileError, match=r"No kernel runs all kinds of tiles of .*masks.safetensors"):
        prepare(recipe, Progress(), force=False, resume=False)
    assert not given["out"].exists()
    with pytest.raises(PatchCompileError, match=r"No kernel runs all kinds of tiles of .*masks.safetensors"):
        plan(recipe)
    dense = plan(recipe.model_copy(update={"lowering": "dense", "target": "a6000"}))
    assert {row.lowering for row in dense.linears} == {"dense"}


def _nodes(path: Path) -> list[Any]:
    import onnx_ir as ir

    return [node for node in ir.load(path).graph if node.op_type == "PatchLinear"]
