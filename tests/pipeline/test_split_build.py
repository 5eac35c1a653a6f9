"""A build with `--lowering split` needs no plugin, and its report tells about the 2:4 products."""

import pytest

from masklearn.masks.tiles import WHOLE
from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.engine.plan_program import PLUGIN, read_programs
from patch_compile.report.terminal import show
from tests.builds import build


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
    assert f"the {parts} 2:4 products of split linears run densely" in printed
    assert "of the weights in 2:4 tiles are in 2:4 products" in printed
