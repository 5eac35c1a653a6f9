"""A build with `--lowering split` needs no plugin, and its report tells about the 2:4 GEMMs."""

import onnx
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.masks.tiles import WHOLE
from masklearn.model.checkpoint import Checkpoint
from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.engine.plan_program import PLUGIN, read_programs
from patch_compile.errors import PatchCompileError
from patch_compile.pipeline.compile import compile_model
from patch_compile.pipeline.export import export_checkpoint
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from tests.builds import build
from tests.refusals import refused


@pytest.mark.rtx
def test_build(settings, tmp_path, capsys, monkeypatch):
    def no_plugin(*_arguments, **_options):
        raise AssertionError("the plugin was asked for")

    monkeypatch.setattr("patch_compile.plugin.build.build_plugin", no_plugin)
    split = {"lowering": "split", "tile": (128, WHOLE), "backend": "tensorrt-rtx", "target": "sm86"}
    report = build(settings | split)
    rows = [row for row in report["linears"] if row["lowering"] == "split"]
    parts = sum(row["split"]["sparse_weights"] > 0 for row in rows)
    assert 0 < parts == report["engine"]["sparse_parts"]
    out = tmp_path / "out"
    assert [path.name for path in (out / "engine").iterdir() if path.suffix == ".so"] == []
    layers = [layer for program in read_programs(out / "engine" / "model.engine") for layer in program.layers]
    assert not [layer for layer in layers if layer.kind == PLUGIN]
    report = read_report(out)
    assert report is not None
    show(Result(report).sections())
    printed = capsys.readouterr().out
    assert f"the {parts} 2:4 GEMMs of split linears run densely" in printed
    assert "of the weights in 2:4 tiles are in 2:4 GEMMs" in printed


W8A8 = {"lowering": "split", "tile": (64, WHOLE), "weights": "w8a8"}


@pytest.mark.rtx
def test_int8_products_need_no_plugin(settings, tmp_path):
    """The proof compares the integers of the graph with the model in torch; TensorRT-RTX parses and builds them."""
    report = build(settings | W8A8 | {"backend": "tensorrt-rtx", "target": "sm86"})
    rows = [row for row in report["linears"] if row["weights"] == "w8a8"]
    assert rows and {row["lowering"] for row in rows} == {"split"}
    assert all(row["bytes_after"] < 0.6 * row["bytes_before"] for row in rows)
    assert any(line.startswith("static scales: int8 X of") for line in report["notes"])
    out = tmp_path / "out"
    graph = onnx.load(out / "onnx" / "model.onnx", load_external_data=False).graph
    assert "PatchLinear" not in {node.op_type for node in graph.node}
    grids = MaskSet.load(out / "masks.safetensors").grids
    assert {row["name"] for row in rows} == {name for name, grid in grids.items() if grid.activations}
    assert Checkpoint.open(out / "model").rounded_inputs == {n: grid.activations for n, grid in grids.items()}
    assert any("static scales in OUT" in line for line in export_checkpoint(out, "compressed-tensors").notes)


def test_static_scales_are_found_once(settings, tmp_path, monkeypatch):
    build(settings | W8A8 | {"ratio": 0.0})
    masks = tmp_path / "out" / "masks.safetensors"
    first = (tmp_path / "out").rename(tmp_path / "first")
    given = {key: settings[key] for key in ("model", "eval_text", "eval_windows", "eval_length", "out")}
    monkeypatch.setattr("masklearn.static_scales.find_static_scales", None)
    build(given | {"lowering": "split", "backend": "onnx", "mask": first / masks.name})
    assert MaskSet.load(masks).grids.keys() == MaskSet.load(first / masks.name).grids.keys()


def test_compile_runs_no_model_to_find_scales(settings, tmp_path):
    build(settings | W8A8 | {"lowering": "plugin"})
    masks = (tmp_path / "out").rename(tmp_path / "first") / "masks.safetensors"
    with refused(PatchCompileError):
        compile_model(Recipe.parse({"model": settings["model"], "mask": masks, "lowering": "split"}))
