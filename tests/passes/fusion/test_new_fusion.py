"""A fusion needs only a class to run in a build like any other."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import patch_compile.passes.fusion as folder
from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes import describe_passes
from patch_compile.passes.fusion.base import EpiloguePass, FusionPass
from patch_compile.passes.linear_node import LinearNode, reader, replace, why_open
from tests.builds import build
from tests.passes.fusion.fusing import A, check_fused
from tests.sources.onnx_model import graphs


class FuseNegationsPass(EpiloguePass):
    """`Neg(Neg(Linear(X, W)))` -> `Linear(X, W)`, which is the same."""

    name = "negations"
    summary = "two negations"
    place = 15

    def fuse(self, node) -> bool:
        first = reader(node.outputs[0], "Neg")
        second = reader(first.outputs[0], "Neg") if first else None
        if second is None or why_open(node.outputs[0], [first]) or why_open(first.outputs[0], [second]):
            return False
        replace([node, first], second, LinearNode.read(node))
        return True


@pytest.fixture
def entered(monkeypatch) -> None:
    monkeypatch.setitem(FUSIONS._classes, FuseNegationsPass.name, FuseNegationsPass)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


@pytest.mark.usefixtures("entered")
@pytest.mark.parametrize(("fuse", "left"), [("all", 0), ("negations", 0), ("none", 2), ("bias,qkv", 2)])
def test_builds_run_it_on_request(tmp_path, fuse, left):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "fc"),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    half = {"elem": onnx.TensorProto.FLOAT16, "y": ["batch", 64]}
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("w", 64, 64, dtype=np.float16)], **half)
    settings = {"model": path, "ratio": 0.5, "tile": (64, 64), "backend": "onnx", "lowering": "plugin"}
    report = build({**settings, "out": tmp_path / "out", "fuse": fuse})
    found = operators(tmp_path / "out" / "onnx" / "model.onnx")
    assert found.count("PatchLinear") == 1 and found.count("Neg") == left
    assert report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]


@pytest.mark.usefixtures("entered")
def test_it_runs_in_its_place():
    assert list(FUSIONS) == ["bias", "negations", "gated", "activation", "residual", "qkv"]
    names = [name for name, _ in describe_passes()]
    assert names.index("FuseBiasPass") < names.index("FuseNegationsPass") < names.index("FuseGatedPass")
    check_fused(f"{A} n = Neg (h) m = Neg (n) y = Gelu (m)", {"a": "gelu"}, fuse=FUSIONS)


def test_documentation_names_every_fusion_file():
    page = (Path(__file__).parents[3] / "docs/howto/building.md").read_text()
    files = {file.stem for file in Path(folder.__path__[0]).glob("*.py")} - {"__init__", "base"}
    assert files == {f"fuse_{name}" for name in FUSIONS}
    for name, kind in FUSIONS.items():
        assert issubclass(kind, FusionPass) and kind.name == name and kind.summary
        assert f"`{name}`" in page, f"docs/howto/building.md has no line on {name}"


def test_the_list_imports_nothing_heavy():
    code = (
        "import sys; from patch_compile.packing.fusion import FUSIONS\n"
        "print(*[kind.summary for kind in FUSIONS.values()], 'MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split("MODULES")[1].split()}
    assert not loaded & {"torch", "numpy", "pydantic", "onnx", "onnx_ir"}
