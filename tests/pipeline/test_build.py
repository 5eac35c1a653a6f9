"""Whole builds of a tiny model with the real stages: learning, export, packing, engine and proof."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.pipeline.learn import learn
from patch_compile.pipeline.prepare import prepare
from patch_compile.progress import Progress, Stage
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.source import CheckpointSource
from tests.builds import build, check_out
from tests.refusals import refused

pytestmark = pytest.mark.quick


def test_out_holds_what_the_manifest_says(settings):
    report = build(settings)
    out = settings["out"]
    manifest = check_out(out, report, "model/config.json")

    masks = MaskSet.load(out / "masks.safetensors")
    total = masks.weights
    assert abs(report["ratio"] - 0.4) * total < 64 * 64
    assert report["ratio"] == masks.ratio == manifest["ratio"]["reached"]
    assert sum(row["zeroed"] for row in report["linears"]) == masks.zeroed
    assert report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    assert report["perplexity"]["dense"] > 1
    assert report["generated"]["dense"]
    graph = onnx.load(out / "onnx" / "model.onnx", load_external_data=False).graph
    nodes = [node.name for node in graph.node if node.op_type == "PatchLinear"]
    assert sorted(nodes) == sorted(nodes_of(report))
    assert "model.layers.1.mlp.gate_proj+up_proj" in nodes
    assert report["linears"] == json.loads((out / "plan.json").read_text())["linears"]
    found = {row["name"].rpartition(".")[2]: row["node"] for row in report["linears"] if row["node"]}
    assert found["gate_proj"] == found["up_proj"] and found["gate_proj"]["activation"] == "silu"
    assert found["gate_proj"]["gated"] and len(found["gate_proj"]["linears"]) == 2
    assert found["down_proj"]["residual"] and len(found["down_proj"]["linears"]) == 1


def nodes_of(report):
    """Names of the PatchLinear nodes, of which gate and up share one."""
    return {row["node"]["name"] for row in report["linears"] if row["lowering"] == "plugin"}


def test_no_fusion_means_single_nodes(settings):
    fused = build(settings)
    report = build(settings | {"fuse": False}, force=True)
    assert "masks" not in report["seconds"]  # only later stages ran again
    assert nodes_of(report) == {row["name"] for row in report["linears"] if row["lowering"] == "plugin"}
    nodes = [row["node"] for row in report["linears"] if row["node"]]
    assert not any(node["activation"] or node["gated"] or node["residual"] for node in nodes)
    assert len(nodes_of(fused)) < len(nodes_of(report))
    made, expected = (one["agreement"]["window"]["hybrid"] for one in (report, fused))
    assert made == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_the_ends_of_the_range(settings, ratio):
    report = build(settings | {"ratio": ratio, "method": "magnitude"})
    assert report["ratio"] == ratio
    lowerings = {row["lowering"] for row in report["linears"]}
    assert lowerings == ({"dense"} if ratio == 0 else {"plugin"})
    if ratio == 0:
        assert report["difference"]["top1_agreement"] == 1.0
        assert all(row["reason"] for row in report["linears"])


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


def test_an_interrupted_build_goes_on_where_it_stopped(settings, monkeypatch):
    real = CheckpointSource.write_hybrid
    monkeypatch.setattr(CheckpointSource, "write_hybrid", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(settings)
    assert not settings["out"].exists()
    monkeypatch.setattr(CheckpointSource, "write_hybrid", real)
    with refused():
        build(settings)
    monkeypatch.setattr(CheckpointSource, "learn", interrupt)  # learning must not run again
    report = build(settings, resume=True)
    assert report["asked"]["ratio"] == 0.4
    assert "masks" not in report["seconds"]
    assert "export" in report["seconds"]
    manifest = json.loads((settings["out"] / "manifest.json").read_text())
    assert set(manifest["stages"]) == {"masks", "onnx", "proof", "page"}


@pytest.mark.parametrize(
    "change",
    [
        {"ratio": 0.25},
        {"method": "magnitude", "windows": 3},
        {"calib": None},
        {"permute": True, "include": ("lm_head",)},
    ],
)
def test_resuming_refuses_settings_of_other_masks(settings, monkeypatch, change):
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(CheckpointSource, "write_hybrid", interrupt)
        build(settings)
    root = settings["out"].with_name("out.partial")
    masks = (root / "masks.safetensors").read_bytes()
    with refused():
        build(settings | change, resume=True)
    with refused():
        learn(Recipe.parse(settings | change), resume=True)
    assert (root / "masks.safetensors").read_bytes() == masks
    monkeypatch.setattr(CheckpointSource, "learn", interrupt)  # what was learned is kept
    later = {"eval_windows": 1, "opset": 20}
    assert "masks" not in build(settings | later, resume=True)["seconds"]


def test_interrupted_training_keeps_its_checkpoints(settings, monkeypatch):
    """They lie in the scratch folder of a build without a finished stage, and are not for other settings."""

    def stopped(clock, what, done, total):
        if what.startswith("repair") and done == 4:
            raise KeyboardInterrupt

    repairing = settings | {"method": "oneshot", "repair_steps": 6}
    monkeypatch.setattr("masklearn.training.loop.CHECKPOINT_EVERY", 2)
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(Stage, "update", stopped)
        build(repairing)
    with refused():
        build(repairing | {"repair_steps": 8}, resume=True)
    assert build(repairing, resume=True)["learned"]["repair"]["steps"] == 6


def test_learn_publishes_no_compiled_leftovers(settings, monkeypatch):
    monkeypatch.setattr("patch_compile.verification.proof.prove", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(settings)
    assert (settings["out"].with_name("out.partial") / "onnx" / "model.onnx").is_file()
    learn(Recipe.parse(settings), force=False, resume=True)
    out = settings["out"]
    assert not (out / "onnx").exists() and not (out / "plan.json").exists()
    assert set(json.loads((out / "manifest.json").read_text())["stages"]) == {"masks"}


@pytest.mark.rtx
def test_other_backends_publish_no_old_engine(settings, monkeypatch):
    with_engine = {"backend": "tensorrt-rtx", "target": "sm86", "max_shapes": "batch=2,sequence=32,past=0"}
    with monkeypatch.context() as interrupted:
        interrupted.setattr("patch_compile.verification.proof.prove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(settings | with_engine)
    assert (settings["out"].with_name("out.partial") / "engine" / "model.engine").is_file()
    report = build(settings | {"backend": "onnx"}, resume=True)
    assert report.get("engine") is None
    assert not (settings["out"] / "engine").exists()
    assert "engine" not in json.loads((settings["out"] / "manifest.json").read_text())["stages"]


def test_an_early_failure_leaves_nothing(settings):
    Path(settings["calib"]).write_text("the cat")
    with refused():
        build(settings)
    assert not settings["out"].exists()
    assert not settings["out"].with_name("out.partial").exists()


def test_masks_of_another_model_are_refused(settings, make_model, tmp_path):
    other = settings | {"model": make_model(hidden_size=64), "out": tmp_path / "other", "method": "magnitude"}
    learn(Recipe.parse(other))
    given = {k: v for k, v in settings.items() if k != "ratio"} | {
        "mask": tmp_path / "other" / "masks.safetensors"
    }
    with refused():
        build(given)
    assert not settings["out"].exists()


def test_without_text_the_model_writes_its_own(settings):
    report = build({k: v for k, v in settings.items() if k not in ("calib", "eval_text")})
    said = " ".join(report["notes"])
    assert "calibration text: the model writes its own" in said
    assert "evaluation text: the model writes its own" in said
    assert report["text"]["eval"]["path"] is None


def test_bfloat16_is_proven_too(settings):
    report = build(settings | {"dtype": "bfloat16"})
    assert report["agreement"]["tolerance"]["dtype"] == "bfloat16"
    model = onnx.load(settings["out"] / "onnx" / "model.onnx", load_external_data=False)
    assert {t.data_type for t in model.graph.initializer if t.name.endswith(".dense")} == {
        onnx.TensorProto.BFLOAT16
    }
    # Unchanged files are linked from the build before; only the proof runs again.
    longer = settings["out"].with_name("longer.txt")
    longer.write_text(f"{Path(settings['eval_text']).read_text()} the cat")
    again = build(settings | {"dtype": "bfloat16", "eval_text": str(longer)}, force=True)
    assert again["agreement"] == report["agreement"]


def test_plain_operators_for_older_opsets(settings):
    build(settings | {"opset": 20})
    model = onnx.load(settings["out"] / "onnx" / "model.onnx", load_external_data=False)
    assert {o.domain: o.version for o in model.opset_import}[""] == 20
    assert "Attention" not in {node.op_type for node in model.graph.node}


def test_a_wrongly_compiled_graph_fails_the_build(settings, monkeypatch):
    """A linear whose first 64 rows are moved to its end makes the ONNX file differ from the pruned checkpoint."""
    from patch_compile.passes import write as compiler

    real = compiler.write_hybrid

    def wrong(graph, pruned, masks, plan, path, dtype, step=None, **options):
        read = pruned.read
        target = "model.layers.1.mlp.down_proj.weight"

        def swapped(name):
            weight = read(name)
            return weight if name != target else np.concatenate([weight[64:], weight[:64]])

        monkeypatch.setattr(pruned, "read", swapped)
        monkeypatch.setattr("patch_compile.passes.lowering.packed_initializers.check_packed", lambda *_: None)
        return real(graph, pruned, masks, plan, path, dtype, step, **options)

    monkeypatch.setattr(compiler, "write_hybrid", wrong)
    with refused():
        build(settings)
    assert not settings["out"].exists()


@pytest.mark.rtx
def test_an_engine_is_built_without_a_gpu(settings):
    report = build(
        settings
        | {"backend": "tensorrt-rtx", "target": "sm86,sm89", "max_shapes": "batch=2,sequence=32,past=0"}
    )
    engine = settings["out"] / "engine"
    assert (engine / "model.engine").stat().st_size == report["engine"]["bytes"]
    assert report["engine"]["targets"] == ["sm86", "sm89"]
    assert report["engine"]["patch_linears"] == len(nodes_of(report))
    nodes = [row["node"] for row in report["linears"] if row["node"]]
    assert any(node["gated"] for node in nodes) and any(node["residual"] for node in nodes)
    plugin = (engine / "libpatch_linear.so").read_bytes()
    assert plugin not in (engine / "model.engine").read_bytes()
    assert report["engine"]["plugin_sha256"] == sha256_of(engine / "libpatch_linear.so")
    assert report["engine"]["plugin_embedded"] is False
    headers = json.loads((engine / "engine.json").read_text())["plugin_headers"]
    assert headers == report["engine"]["plugin_headers"] and headers["version"]
    assert any(f"TensorRT's headers, version {headers['version']}" in note for note in report["notes"])


@pytest.mark.rtx
def test_backend_and_target_are_chosen_and_said(settings, capsys):
    from patch_compile.engine.backend import default_backend

    progress = Progress()
    recipe = Recipe.parse({k: v for k, v in settings.items() if k != "backend"})
    job = prepare(recipe, progress, force=False, resume=False)
    assert job.backend == default_backend()[0]
    said = [note.split(":")[0] for note in progress.notes]
    assert said == (
        ["backend", "warning"] if job.backend == "onnx" else ["backend", "target", "warning", "plugin"]
    )
    assert "backend: " in capsys.readouterr().err


@pytest.fixture
def no_tensorrt(monkeypatch):
    """A machine on which no TensorRT is installed."""
    from patch_compile.engine import backend

    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    backend._import.cache_clear()
    yield
    backend._import.cache_clear()


def test_missing_tensorrt_is_reported_before_work(settings, monkeypatch, no_tensorrt):
    def no_work(*_args):
        raise AssertionError("no stage may begin")

    monkeypatch.setattr(CheckpointSource, "learn", no_work)
    asked = {k: v for k, v in settings.items() if k != "backend"} | {"target": "sm86"}
    with refused():
        build(asked)
    for change in ({"backend": "onnx"}, {"target": None}):
        job = prepare(Recipe.parse(asked | change), Progress(), force=False, resume=False)
        assert job.backend == "onnx" and not job.targets


def test_late_failures_are_found_before_work(settings, monkeypatch):
    import shutil
    from collections import namedtuple

    def no_work(*_args):
        raise AssertionError("no stage may begin")

    monkeypatch.setattr(CheckpointSource, "learn", no_work)
    drawn = shutil.copytree(settings["model"], settings["model"].with_name("drawn"))
    (drawn / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_p": 2.0}))
    for change in [
        {"model": drawn},
        {"backend": "tensorrt-rtx", "target": "sm12345"},
        {"calib": str(settings["out"])},
        {"model": settings["out"]},
        {"exclude": ("*nothing*",)},
    ]:
        with refused():
            build(settings | change)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with refused():
        build(settings)
    settings["out"].mkdir()
    with refused():
        build(settings)
