"""Whole builds of a tiny model with the real stages: learning, export, packing, engine and proof."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from masklearn.masks.maskset import MaskSet
from patch_compile.build.learn import learn
from patch_compile.build.prepare import prepare
from patch_compile.build.stages import keys_of
from patch_compile.cli.build import build as build_command
from patch_compile.errors import AccuracyError, PatchCompileError, SpeedError
from patch_compile.out.report import read_report
from patch_compile.out.stage_files import sha256_of
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.report.terminal.console import build_parts
from patch_compile.report.terminal.parts import show
from patch_compile.sources.checkpoint.source import CheckpointSource
from tests.builds import build, check_out, narrow_model, zeros


def test_out_holds_what_the_manifest_says(settings):
    report = build(settings)
    out = settings["out"]
    manifest = check_out(out, report, "model/config.json")

    masks = MaskSet.load(out / "masks.safetensors")
    total = masks.weights
    assert abs(report["ratio"]["reached"] - 0.4) * total < 64 * 64
    assert report["ratio"]["reached"] == masks.ratio == manifest["ratio"]["reached"]
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


def test_without_fusion_every_linear_is_a_node_of_its_own(settings):
    fused = build(settings)
    report = build(settings | {"fuse": False}, force=True)
    assert "masks" not in report["seconds"]  # only later stages ran again
    assert nodes_of(report) == {row["name"] for row in report["linears"] if row["lowering"] == "plugin"}
    nodes = [row["node"] for row in report["linears"] if row["node"]]
    assert not any(node["activation"] or node["gated"] or node["residual"] for node in nodes)
    assert len(nodes_of(fused)) < len(nodes_of(report))
    assert report["perplexity"]["hybrid"] == pytest.approx(fused["perplexity"]["hybrid"], rel=0.01)


def test_the_recipe_reproduces_the_build(settings, tmp_path):
    build(settings)
    again = Recipe.load(settings["out"] / "recipe.yaml") | {"out": tmp_path / "again"}
    build(again)
    for name in ("masks.safetensors", "model/model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data"):
        assert sha256_of(settings["out"] / name) == sha256_of(tmp_path / "again" / name), name


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_the_ends_of_the_range(settings, ratio):
    report = build(settings | {"ratio": ratio, "method": "magnitude"})
    assert report["ratio"]["reached"] == ratio
    lowerings = {row["lowering"] for row in report["linears"]}
    assert lowerings == ({"dense"} if ratio == 0 else {"plugin"})
    if ratio == 0:
        assert report["difference"]["top1_agreement"] == 1.0
        assert all(row["reason"] for row in report["linears"])


def test_where_no_linear_gains_the_user_is_asked(settings, monkeypatch):
    monkeypatch.setattr(CheckpointSource, "learn", None)  # must not be called
    for lowering in ("auto", "dense"):
        with pytest.raises(PatchCompileError, match=r"No linear of .* gains by pruning on A6000") as caught:
            build(settings | {"lowering": lowering, "target": "a6000"})
        assert "--lowering plugin" in caught.value.fix and not settings["out"].exists()
    assert "asked for by --lowering" in caught.value.why


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ratio": "*=0.3,mlp.*=0.5,down_proj=0"},
        {"per_layer": True},
        {"lowering": "up_proj=dense,q_proj=plugin"},
    ],
)
def test_no_linear_that_is_compiled_dense_has_a_zero_that_its_checkpoint_did_not_have(
    settings, make_model, change, capsys
):
    model = narrow_model(make_model)
    small = {"model": model, "method": "magnitude", "lowering": "auto", "target": "l4", "tile": (128, 128)}
    report = build(settings | small | change)
    before, after = zeros(model), zeros(settings["out"] / "model")
    lowerings = {row["name"]: row["lowering"] for row in report["linears"]}
    assert {*lowerings.values()} == {"dense", "plugin"}
    for name, lowering in lowerings.items():
        weight = f"{name}.weight"
        assert (after[weight] == before[weight]) == (lowering == "dense"), name
    gains, covered = report["learned"]["gains"], sum(math.prod(row["shape"]) for row in report["linears"])
    assert gains["gaining"] == [*lowerings.values()].count("plugin") and gains["card"] == "L4"
    assert report["ratio"]["reached"] == sum(row["zeroed"] for row in report["linears"]) / covered
    assert abs(report["ratio"]["reached"] - report["ratio"]["asked"]) * covered <= 128 * 128
    show(build_parts(read_report(settings["out"])))
    assert f"{gains['gaining']} of 7 covered linears gain by pruning on L4" in capsys.readouterr().out


def test_a_method_that_trains_masks_leaves_linears_whole_that_do_not_gain(settings, make_model):
    model = narrow_model(make_model)
    small = {"model": model, "method": "patch-tile", "prior": "magnitude", "steps": 2, "repair": "none", "lowering": "auto",
             "target": "l4", "tile": (128, 128), "batch": 1}  # fmt: skip
    report = build(settings | small)
    before, after = zeros(model), zeros(settings["out"] / "model")
    for row in report["linears"]:
        weight = f"{row['name']}.weight"
        assert (after[weight] == before[weight]) == (row["lowering"] == "dense"), row["name"]
    assert 0 < report["learned"]["gains"]["gaining"] < 7


def test_auto_leaves_small_linears_dense_and_the_report_says_what_that_gains(settings, capsys):
    """With tiny linears the engine is only as fast as the dense one, and the report must not call that a success."""
    learned = settings | {"out": settings["out"].with_name("learned"), "method": "magnitude"}
    build(learned)
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
    assert report["plan"] == {k: v for k, v in written.items() if k not in ("linears", "schema")}
    graph = onnx.load(settings["out"] / "onnx" / "model.onnx", load_external_data=False).graph
    assert not any(node.op_type == "PatchLinear" for node in graph.node)
    show(build_parts(read_report(settings["out"])))
    said = capsys.readouterr().out
    assert f": {reason}" in said and "so nothing is gained on A6000" in said
    assert "predicted speed-up on A6000, batch 16, 128 prompt + 128 generated tokens: end to end 1.00" in said


def test_another_workload_lowering_or_card_compiles_again_with_the_same_masks(settings):
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
    report = build(fast | {"speedup": 1.06})
    assert 1.06 <= report["plan"]["whole"]["end_to_end"]["speedup"] < 1.08
    speed = report["learned"]["speed"]
    assert sum(row["tiles"]["sparse"] for row in report["linears"]) == speed["tiles"]
    assert speed["bound"] <= speed["cost"] and 0 <= speed["gap"] < 0.05
    assert {row["lowering"] for row in report["linears"] if row["tiles"]["sparse"]} == {"plugin"}
    show(build_parts(read_report(settings["out"])))
    said = capsys.readouterr().out
    assert "(for a speed-up of 1.06), method magnitude" in said and "(the linear program), a gap of" in said


def test_a_target_without_a_card_is_built_for_without_predictions_but_has_no_speed(settings, unrated_sm120):
    job = prepare(Recipe.parse(settings | {"target": "sm120"}), Progress(), force=False, resume=False)
    assert job.costs is None
    asked = {k: v for k, v in settings.items() if k != "ratio"} | {"target": "sm120", "speedup": 1.3}
    with pytest.raises(PatchCompileError, match="No speed is predicted for the target 'sm120'"):
        prepare(Recipe.parse(asked), Progress(), force=False, resume=False)


def test_a_speed_out_of_reach_is_refused_before_any_work(settings, monkeypatch):
    monkeypatch.setattr(CheckpointSource, "learn", None)  # must not be called
    with pytest.raises(SpeedError, match="out of reach"):
        build({k: v for k, v in settings.items() if k != "ratio"} | {"speedup": 1.3})
    assert not settings["out"].exists()


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


def test_an_interrupted_build_goes_on_where_it_stopped(settings, monkeypatch):
    real = CheckpointSource.write_hybrid
    monkeypatch.setattr(CheckpointSource, "write_hybrid", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(settings)
    assert not settings["out"].exists()
    monkeypatch.setattr(CheckpointSource, "write_hybrid", real)
    with pytest.raises(PatchCompileError, match="--resume"):
        build(settings)
    monkeypatch.setattr(CheckpointSource, "learn", interrupt)  # learning must not run again
    report = build(settings, resume=True)
    assert report["ratio"]["asked"] == 0.4
    assert "masks" not in report["seconds"]
    assert "export" in report["seconds"]
    manifest = json.loads((settings["out"] / "manifest.json").read_text())
    assert set(manifest["stages"]) == {"masks", "onnx", "proof", "page"}


def test_learn_does_not_publish_what_an_interrupted_build_compiled(settings, monkeypatch):
    monkeypatch.setattr("patch_compile.verify.proof.prove", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(settings)
    assert (settings["out"].with_name("out.partial") / "onnx" / "model.onnx").is_file()
    learn(Recipe.parse(settings), force=False, resume=True)
    out = settings["out"]
    assert not (out / "onnx").exists() and not (out / "plan.json").exists()
    assert set(json.loads((out / "manifest.json").read_text())["stages"]) == {"masks"}


@pytest.mark.rtx
def test_resuming_with_another_backend_does_not_publish_the_engine(settings, monkeypatch):
    with_engine = {"backend": "tensorrt-rtx", "target": "sm86", "max_shapes": "batch=2,sequence=32,past=0"}
    with monkeypatch.context() as interrupted:
        interrupted.setattr("patch_compile.verify.proof.prove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(settings | with_engine)
    assert (settings["out"].with_name("out.partial") / "engine" / "model.engine").is_file()
    report = build(settings | {"backend": "onnx"}, resume=True)
    assert report.get("engine") is None
    assert not (settings["out"] / "engine").exists()
    assert "engine" not in json.loads((settings["out"] / "manifest.json").read_text())["stages"]


def test_an_early_failure_leaves_nothing(settings):
    Path(settings["calib"]).write_text("the cat")
    with pytest.raises(PatchCompileError, match="too short"):
        build(settings)
    assert not settings["out"].exists()
    assert not settings["out"].with_name("out.partial").exists()


def test_masks_of_another_model_are_refused(settings, make_model, tmp_path):
    other = settings | {"model": make_model(hidden_size=64), "out": tmp_path / "other", "method": "magnitude"}
    build(other)
    given = {k: v for k, v in settings.items() if k != "ratio"} | {
        "mask": tmp_path / "other" / "masks.safetensors"
    }
    with pytest.raises(PatchCompileError, match="made for another model"):
        build(given)
    assert not settings["out"].exists()


def test_without_text_the_model_writes_its_own(settings):
    report = build({k: v for k, v in settings.items() if k not in ("calib", "eval_text")})
    said = " ".join(report["notes"])
    assert "calibration text: the model writes its own" in said
    assert "evaluation text: the dense model writes its own" in said
    assert report["text"]["eval"]["path"] is None


def test_bfloat16_is_proven_too(settings):
    report = build(settings | {"dtype": "bfloat16"})
    assert report["agreement"]["tolerance"]["dtype"] == "bfloat16"
    model = onnx.load(settings["out"] / "onnx" / "model.onnx", load_external_data=False)
    assert {t.data_type for t in model.graph.initializer if t.name.endswith(".dense")} == {
        onnx.TensorProto.BFLOAT16
    }
    # Unchanged files are linked from the build before; only the proof runs again.
    again = build(settings | {"dtype": "bfloat16", "prompt": "the dog sat"}, force=True)
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
    with pytest.raises(AccuracyError):
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


def test_full_tensorrt_without_a_gpu_says_what_works_here(settings):
    from patch_compile.hardware.gpu import local_gpu

    if local_gpu() is not None:
        report = build(settings | {"backend": "tensorrt"})
        assert report["engine"]["backend"] == "tensorrt"
        return
    with pytest.raises(PatchCompileError) as caught:
        build(settings | {"backend": "tensorrt"})
    assert caught.value.exit_code == 1
    assert "onnx, which works here" in caught.value.fix


def test_a_person_sees_table_perplexity_and_sentences(settings):
    flags = [
        str(settings["model"]),
        "--ratio",
        "0.4",
        "--backend",
        "onnx",
        "--tile",
        "64x64",
        "--windows",
        "2",
    ]
    flags += [
        "--lowering",
        "plugin",
        "--length",
        "24",
        "--eval-windows",
        "2",
        "--eval-length",
        "24",
        "--prompt",
        "the cat sat",
    ]
    flags += [
        "--calib",
        str(settings["calib"]),
        "--eval",
        str(settings["eval_text"]),
        "-o",
        str(settings["out"]),
    ]
    result = CliRunner().invoke(build_command, flags, catch_exceptions=False)
    assert result.exit_code == 0
    for piece in (
        "down_proj",
        "192",
        "perplexity: dense",
        "compiled right: yes",
        "dense says: the cat sat",
        "SiLU·mul with up_proj ×",
        "onnx: ",
    ):
        assert piece in result.stdout
    assert "masks: " in result.stderr


def test_each_default_is_said_in_one_line(settings, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = settings["model"]
    chosen = {k: v for k, v in settings.items() if k != "out"} | {"method": "magnitude"}
    report = build(chosen)
    assert (tmp_path / f"{model.name}-patch-0.40" / "onnx" / "model.onnx").is_file()
    assert report["notes"] == [f"output: ./{model.name}-patch-0.40 (no -o given)"]


@pytest.mark.rtx
def test_backend_and_target_are_chosen_and_said(settings, capsys):
    from patch_compile.engine.backend import default_backend

    progress = Progress()
    recipe = Recipe.parse({k: v for k, v in settings.items() if k != "backend"})
    job = prepare(recipe, progress, force=False, resume=False)
    assert job.backend == default_backend()[0]
    said = [note.split(":")[0] for note in progress.notes]
    assert said == (["backend"] if job.backend == "onnx" else ["backend", "target", "plugin"])
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


def test_a_target_without_a_tensorrt_asks_before_the_work(settings, monkeypatch, no_tensorrt):
    def no_work(*_args):
        raise AssertionError("no stage may begin")

    monkeypatch.setattr(CheckpointSource, "learn", no_work)
    asked = {k: v for k, v in settings.items() if k != "backend"} | {"target": "sm86"}
    with pytest.raises(PatchCompileError, match="No engine can be built for sm86 here") as caught:
        build(asked)
    assert "tensorrt-rtx is not installed" in caught.value.why and "`--backend onnx`" in caught.value.fix
    for change in ({"backend": "onnx"}, {"target": None}):
        job = prepare(Recipe.parse(asked | change), Progress(), force=False, resume=False)
        assert job.backend == "onnx" and not job.targets


def test_what_would_stop_the_build_later_stops_it_before_any_work(settings, monkeypatch):
    import shutil
    from collections import namedtuple

    def no_work(*_args):
        raise AssertionError("no stage may begin")

    monkeypatch.setattr(CheckpointSource, "learn", no_work)
    drawn = shutil.copytree(settings["model"], settings["model"].with_name("drawn"))
    (drawn / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_p": 2.0}))
    for change, said in [
        ({"model": drawn}, "generation_config.json holds settings that no model has"),
        ({"backend": "tensorrt-rtx", "target": "sm12345"}, "There is no target"),
        ({"calib": str(settings["out"])}, "no such file"),
        ({"model": settings["out"]}, "No model directory"),
        ({"exclude": ("*nothing*",)}, "nothing"),
    ]:
        with pytest.raises(PatchCompileError, match=said):
            build(settings | change)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(PatchCompileError, match="There is no space"):
        build(settings)
    settings["out"].mkdir()
    with pytest.raises(PatchCompileError, match="exists"):
        build(settings)
