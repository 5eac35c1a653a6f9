"""Builds from ONNX files with every stage real: masks, pruned model, packing, engine and proof."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.cli.app import cli
from patch_compile.recipe import Recipe
from patch_compile.sources import rounding as tolerance
from patch_compile.sources.onnx_model import pruning, rounding
from tests.builds import build, check_out
from tests.refusals import refused
from tests.sources.onnx_model import graphs

ENCODER_SHAPE = (5, 2, 6, 64)  # runs, then the input's shape


@pytest.fixture
def calib(tmp_path):
    x = np.random.default_rng(0).standard_normal(ENCODER_SHAPE).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=x)
    return tmp_path / "inputs.npz"


@pytest.fixture
def settings(exported, tmp_path, calib):
    return {
        "model": exported("encoder", False),
        "calib": str(calib),
        "ratio": 0.3,
        "tile": (64, 64),
        "backend": "onnx",
        "out": tmp_path / "out",
    }


def run(path, feed):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)[0]


@pytest.mark.quick
def test_out_holds_what_the_manifest_says(settings, calib):
    report = build(settings)
    out = settings["out"]
    check_out(out, report, "model/model.onnx")

    masks = MaskSet.load(out / "masks.safetensors")
    assert (masks.method, masks.base_model) == ("oneshot", settings["model"].name)
    assert masks.ratio == report["ratio"] == pytest.approx(0.3, abs=64 * 64 / 2 / masks.weights)
    assert 0 < report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    assert report["inputs"] == {"given": {"kind": "file", "name": "inputs.npz", "runs": 5}, "compared": 5}
    assert {row["name"] for row in report["skipped"]} == {
        f"/layers.{layer}/self_attn/MatMul_{i}" for layer in (0, 1) for i in (1, 2)
    }

    x = np.load(calib)["x"]
    original, hybrid = (
        np.stack([run(path, {"x": one}) for one in x])
        for path in (settings["model"], out / "onnx" / "model.onnx")
    )
    relative = np.linalg.norm(hybrid - original) / np.linalg.norm(original)
    (output,) = report["difference"]["outputs"]
    assert output["relative"] == pytest.approx(relative, rel=1e-3)
    assert 0.01 < relative < 0.6


def test_dense_linears_stay_as_they_are(settings):
    report = build(settings | {"lowering": "re:.*linear1.*=dense"})
    dense = {row["name"] for row in report["linears"] if row["lowering"] == "dense"}
    assert dense and len(dense) < len(report["linears"])
    before, after = (
        {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
        for path in (settings["model"], settings["out"] / "model" / "model.onnx")
    )
    changed = {name for name, weight in before.items() if not np.array_equal(weight, after[name])}
    assert len(changed) == len(report["linears"]) - len(dense)
    gains = report["learned"]["choice"]["gains"]
    assert gains["card"] is None and gains["gaining"] == len(changed)
    assert gains["ratio_of_counted"] == pytest.approx(report["asked"]["ratio"], abs=0.01)
    with refused():
        build(settings | {"lowering": "dense", "out": settings["out"].with_name("dense")})


def test_the_recipe_reproduces_the_build(settings, tmp_path):
    build(settings)
    again = Recipe.load(settings["out"] / "recipe.yaml") | {"out": tmp_path / "again"}
    build(again)
    assert again["threads"] == torch.get_num_threads()  # by which ONNX Runtime rounds reductions
    for name in ("masks.safetensors", "model/model.onnx.data", "onnx/model.onnx", "onnx/model.onnx.data"):
        assert sha256_of(settings["out"] / name) == sha256_of(tmp_path / "again" / name), name


def test_only_changed_stages_run_again(settings):
    build(settings)
    report = build(settings | {"fuse": False}, force=True)
    assert "masks" not in report["seconds"] and "pack" in report["seconds"]
    report = build(settings | {"dtype": "bfloat16"}, force=True)  # the pruned model is rounded to bfloat16
    assert "masks" in report["seconds"]
    report = build(settings | {"dtype": "bfloat16", "fuse": False}, force=True)
    assert "masks" not in report["seconds"] and "pack" in report["seconds"]


def test_masks_come_with_solved_weights(settings, tmp_path):
    build(settings)
    out, given = settings["out"], {"mask": settings["out"] / "masks.safetensors", "ratio": None}
    build({k: v for k, v in (settings | given).items() if v is not None} | {"out": tmp_path / "again"})
    for name in ("model/model.onnx.data", "onnx/model.onnx.data"):
        assert sha256_of(out / name) == sha256_of(tmp_path / "again" / name)
    (out / "model" / "model.onnx").unlink()
    with refused():
        build({k: v for k, v in (settings | given).items() if v is not None} | {"out": tmp_path / "third"})


def test_coverage(settings):
    report = build(settings | {"include": ("*.linear?", "*.out_proj"), "exclude": ("layers.0.*",)})
    assert {row["name"] for row in report["linears"]} == {
        f"layers.1.{part}" for part in ("self_attn.out_proj", "linear1", "linear2")
    }
    reasons = {row["name"]: row["reason"] for row in report["skipped"]}
    assert (reasons["layers.0.linear1"], reasons["layers.1.self_attn"]) == ("excluded", "not included")


@pytest.mark.parametrize(
    "pattern",
    [{"include": ("q_proj",)}, {"include": ("re:(",)}, {"ratio": "q_proj=0.3"}, {"lowering": "q_proj=split"}],
    ids=str,
)
def test_patterns_are_checked_before_anything_is_learned(settings, pattern):
    with refused():
        build(settings | pattern)
    assert not settings["out"].with_name("out.partial").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_model_of_16_bits_and_no_inputs(tmp_path, dtype):
    """Without --calib, masks are learned by magnitude and models are compared on random inputs."""
    kind = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "up"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "b"], ["y"], "down"),
    ]
    numpy_dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = [graphs.tensor("a", 64, 128, dtype=numpy_dtype), graphs.tensor("b", 128, 64, dtype=numpy_dtype)]
    path = graphs.save(tmp_path / "m.onnx", nodes, weights, elem=kind)
    report = build(
        {"model": path, "ratio": 0.5, "tile": (64, 64), "backend": "onnx", "out": tmp_path / "out"}
    )
    assert report["method"] == "magnitude"
    given = {"kind": "random", "runs": 4, "seed": 0, "shapes": {"x": [2, 64]}}
    assert report["inputs"]["given"] == given
    recipe = Recipe.load(tmp_path / "out" / "recipe.yaml")
    assert recipe["dtype"] == dtype
    stored = onnx.load(tmp_path / "out" / "onnx" / "model.onnx").graph.initializer
    assert {t.data_type for t in stored if t.name.endswith((".dense", ".sparse"))} == {kind}


@pytest.fixture
def beyond_fp16(tmp_path):
    """The settings of a model that multiplies by 10⁶ between two linears."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["g"], "small"),
        helper.make_node("Mul", ["g", "large"], ["h"], "scale"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "fc"),
    ]
    large = helper.make_tensor("large", 1, [], [1e6])
    weights = [graphs.tensor("w", 64, 64), graphs.tensor("v", 64, 64), large]
    path = graphs.save(tmp_path / "m.onnx", nodes, weights)
    return {"model": path, "ratio": 0.5, "tile": (64, 64), "backend": "onnx", "out": tmp_path / "out"}


def test_fp16_overflow_is_found_before_learning(beyond_fp16, monkeypatch):
    with (
        monkeypatch.context() as patched,
        refused(),
    ):
        patched.setattr(pruning, "learn_pruning", None)  # must not be called
        build(beyond_fp16)
    assert build(beyond_fp16 | {"dtype": "bfloat16"}, force=True)["agreement"]["error"] < 0.03
    build(beyond_fp16 | {"lowering": "*=plugin,fc=dense"}, force=True)  # fc stays in fp32


def test_the_first_linear_that_overflows_is_named(tmp_path):
    """The outputs are finite again in fp32, and the second linear's input is finite in both."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("Clip", ["p", "low", "high"], ["q"], "clip"),
        helper.make_node("MatMul", ["q", "b"], ["r"], "second"),
        helper.make_node("MatMul", ["r", "c"], ["y"], "third"),
    ]
    weights = [graphs.tensor("a", 64, 64), graphs.tensor("b", 64, 64, scale=1e4)]
    limits = [helper.make_tensor("low", 1, [], [-9.0]), helper.make_tensor("high", 1, [], [9.0])]
    path = graphs.save(tmp_path / "m.onnx", nodes, [*weights, graphs.tensor("c", 64, 64), *limits])
    given = {"model": path, "ratio": 0.5, "tile": (64, 64), "backend": "onnx", "out": tmp_path / "out"}
    with refused():
        build(given)
    x = np.random.default_rng(0).standard_normal((2, 3, 64)) * [[[1e-4]], [[1]]]
    np.savez(tmp_path / "inputs.npz", x=x.astype(np.float32))
    with refused():  # only the first input is looked at before masks are learned
        build(given | {"calib": str(tmp_path / "inputs.npz")})


def test_infinite_models_are_refused_before_work(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("MatMul", ["p", "b"], ["y"], "second"),
    ]
    weights = [graphs.tensor(name, 64, 64, dtype=np.float16, scale=1e4) for name in "ab"]
    path = graphs.save(tmp_path / "m.onnx", nodes, weights, elem=TensorProto.FLOAT16)
    with refused():
        build({"model": path, "ratio": 0.5, "tile": (64, 64), "backend": "onnx", "out": tmp_path / "out"})
    assert not (tmp_path / "out.partial").exists()


def test_wrong_hybrids_are_not_published(settings, monkeypatch):
    """With a tolerance of zero, mere rounding is a difference."""
    monkeypatch.setattr(tolerance, "sqrt", lambda _: 0.0)
    monkeypatch.setattr(rounding, "_error", lambda *_, **__: 0.0)
    with refused():
        build(settings)
    assert not settings["out"].exists()


def test_unfit_sizes_are_refused_before_work(tmp_path):
    """Random inputs are 16 long where the graph does not say how long; this one must be reshaped to rows of 64."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"], "rows"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "fc"),
    ]
    rows = helper.make_tensor("rows", TensorProto.INT64, [2], [-1, 64])
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("w", 64, 64), rows], x=("n.0", "n.1"))
    given = {"model": path, "ratio": 0.5, "tile": (64, 64), "backend": "onnx", "out": tmp_path / "out"}
    with refused():
        build(given)
    assert not (tmp_path / "out.partial").exists()
    assert build(given | {"opt_shapes": "n.0=2,n.1=128"})["inputs"]["compared"] == 4


@pytest.mark.rtx
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", ["encoder", "conv_net"])
def test_engines(exported, tmp_path, calib, model, dtype):
    if model == "conv_net":
        np.savez(calib, x=np.random.default_rng(0).standard_normal((3, 2, 3, 8, 8)).astype(np.float32))
    report = build(
        {
            "model": exported(model, True),
            "calib": str(calib),
            "ratio": 0.4,
            "tile": (64, 64),
            "dtype": dtype,
            "backend": "tensorrt-rtx",
            "target": "sm86",
            "out": tmp_path / "out",
        }
    )
    packed = [row for row in report["linears"] if row["lowering"] == "plugin"]
    assert report["engine"]["patch_linears"] == len(packed) >= 2
    assert report["engine"]["dtype"] == dtype
    assert (tmp_path / "out" / "engine" / "model.engine").stat().st_size == report["engine"]["bytes"]
    assert any(note.startswith("shapes: from inputs.npz") for note in report["notes"])


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(cli.commands["build"], [str(argument) for argument in arguments])

    def test_far_outputs_bring_a_warning(self, exported, tmp_path, calib):
        """Random weights have no structure, so that half of them are a large part of the output."""
        words = ["--tile", "64x64", "--backend", "onnx", "-o", tmp_path / "out", "--force"]
        done = self.invoke(exported("mlp", False), "--ratio", "0.5", *words)
        assert done.exit_code == 0, done.exception
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("warning: pruning moved")]
        assert "the output 'y' by" in line and "--calib inputs.npz" in line
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Pruning moved the output" in page
        done = self.invoke(exported("encoder", False), "--ratio", "0.1", "--calib", calib, *words)
        assert done.exit_code == 0, done.exception
        assert "warning" not in done.stdout
