"""`patch-compile bench` on ONNX Runtime, with every stage real."""

import json

import numpy as np
import onnx
import psutil
import pytest
from click.testing import CliRunner

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from patch_compile.api.results import Result
from patch_compile.artifacts.bench import BenchReport, Contender, Library, Phase
from patch_compile.artifacts.folder import OutFolder
from patch_compile.cli.app import cli
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from patch_compile.sources.open import source_of
from patch_compile.timing.models import UniformMasks, write_contender
from patch_compile.timing.request import BenchRequest
from patch_compile.timing.run import bench
from tests.inputs import changed
from tests.refusals import refused

QUICK = {"iterations": 2, "warm_up": 1}
SMALL = BenchRequest(batch_size=(1, 2), prompt_tokens=(8,), past_tokens=(16,), **QUICK)


@pytest.mark.quick
def test_timing_leaves_the_build_whole(out_of, capsys):
    out = out_of("llama")
    before = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    result = bench(out, SMALL)
    assert BenchReport.of(out) == result
    assert [(r.phase, r.batch, r.tokens) for r in result.rows] == [
        ("prefill", 1, 8), ("prefill", 2, 8), ("decode", 1, 16), ("decode", 2, 16)
    ]  # fmt: skip
    for row in result.rows:
        for model in Contender:
            timed = row.of(model)
            assert timed.runs == 2
            assert 0 < timed.p10_ms <= timed.median_ms <= timed.p90_ms
        assert row.speedup == pytest.approx(row.dense.median_ms / row.hybrid.median_ms)
        assert row.limit is None and row.predicted is None  # only a GPU has these
    assert result.runner is Library.ONNX_RUNTIME
    assert result.clocks is None and result.device.cores > 0
    sizes = result.bytes
    assert sizes[Contender.UNIFORM] < sizes[Contender.HYBRID] < sizes[Contender.DENSE]
    after = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert after - before == {"bench/bench.json", "report.html"} - before
    assert {"bench/bench.json", "report.html"} <= set(OutFolder.open(out).manifest.files)
    assert "says nothing about a GPU" in (out / "report.html").read_text()
    show(Result(result, out).sections())
    said = capsys.readouterr().out
    assert "It says nothing about a GPU" in said and "uniform-2:4: every tile" in said
    assert "predicted" not in said


def test_kept_models_are_reused(out_of, capsys):
    out = out_of("llama")
    keeping = BenchRequest(**{**vars(SMALL), "keep": True})
    assert "dense ONNX" in bench(out, keeping).seconds
    kept = OutFolder.open(out).manifest.stages["bench"].files
    assert {"bench/models/dense/model.onnx", "bench/models/uniform-2-4/model.onnx.data"} <= set(kept)
    again = bench(out, SMALL, force=True)
    assert "dense ONNX" not in again.seconds and any(
        "as an earlier run left it" in note for note in again.notes
    )
    assert (out / "bench/models/dense/model.onnx").is_file()
    (out / "bench/models/dense/key").write_text("another")
    with refused():
        bench(out, SMALL, force=True)


def test_changing_sources_keep_no_model(out_of, monkeypatch):
    out = out_of("llama")
    file = Recipe.of_build(out).model / "model.safetensors"

    def change_and_write(*arguments):
        with changed(file):
            return write_contender(*arguments)

    monkeypatch.setattr("patch_compile.timing.models.write_contender", change_and_write)
    keeping = BenchRequest(**{**vars(SMALL), "keep": True, "against": (Contender.DENSE,)})
    with refused():
        bench(out, keeping)
    assert not (out / "bench/models/dense/key").exists()


def test_reference_models_are_what_they_claim(out_of, tmp_path):
    """The dense file has the checkpoint's weights; the uniform file has only PatchLinears without dense slabs."""
    out = OutFolder.open(out_of("llama"))
    source, checkpoint = source_of(out), Checkpoint.open(Recipe.of_build(out.path).model)
    others = [which for which in Contender if which is not Contender.HYBRID]
    files = {w: write_contender(w, out, source, None, tmp_path, Progress()) for w in others}
    files[Contender.HYBRID] = out.path / "onnx/model.onnx"
    graphs = {which: onnx.load(file).graph for which, file in files.items()}
    stored = {tensor.name: tensor for tensor in graphs[Contender.DENSE].initializer}
    name = "model.layers.1.mlp.down_proj.weight"
    weight = onnx.numpy_helper.to_array(stored[name])
    assert np.array_equal(weight, checkpoint.read(name).astype(np.float16))
    assert not any(node.op_type == "PatchLinear" for node in graphs[Contender.DENSE].node)
    uniform = graphs[Contender.UNIFORM]
    packed = {t.name: t for t in uniform.initializer}
    nodes = [node for node in uniform.node if node.op_type == "PatchLinear"]
    assert sorted(n.name for n in nodes) == sorted(
        n.name for n in graphs[Contender.HYBRID].node if n.op_type == "PatchLinear"
    )
    assert all(packed[node.input[1]].dims[0] == 0 and packed[node.input[2]].dims[0] > 0 for node in nodes)


def test_uniform_masks_keep_the_two_largest(out_of):
    out = OutFolder.open(out_of("llama"))
    checkpoint, like = (
        Checkpoint.open(Recipe.of_build(out.path).model),
        MaskSet.load(out.path / "masks.safetensors"),
    )
    masks = UniformMasks(like, lambda name: read_linear(checkpoint, name).numpy())
    assert set(masks) == set(like)
    for name, mask in masks.items():
        groups = np.abs(read_linear(checkpoint, name).numpy()).reshape(-1, 4)
        keep = mask.keep().reshape(-1, 4)
        assert mask.zeroed * 2 == mask.weights
        assert (
            np.where(keep, groups, np.inf).min(axis=1) >= np.where(keep, -np.inf, groups).max(axis=1)
        ).all()


def test_an_encoder_is_timed_on_prompts_alone(out_of):
    result = bench(
        out_of("bert"),
        BenchRequest(batch_size=(1,), prompt_tokens=(8, 16), against=(Contender.DENSE,), **QUICK),
    )
    assert [(row.phase, row.tokens) for row in result.rows] == [("prefill", 8), ("prefill", 16)]
    assert result.rows[0].uniform is None and result.bytes[Contender.UNIFORM] is None


def test_onnx_files_are_timed_on_build_inputs(out_of):
    out = out_of("onnx")
    result = bench(out, BenchRequest(**QUICK))
    (row,) = result.rows
    assert (row.phase, row.batch, row.tokens) == (Phase.WHOLE, 2, None)
    assert row.dense.runs == row.uniform.runs == 2
    sizes = result.bytes
    assert sizes[Contender.DENSE] > sizes[Contender.HYBRID] > sizes[Contender.UNIFORM]
    with refused():
        bench(out, SMALL, force=True)


def test_hybrid_alone_needs_no_original(out_of):
    out = out_of("llama")
    recipe = out / "recipe.yaml"
    assert "model:" in recipe.read_text()
    result = bench(
        out, BenchRequest(batch_size=(1,), prompt_tokens=(8,), past_tokens=(8,), against=(), **QUICK)
    )
    assert result.rows[0].dense is None and result.rows[0].speedup is None
    show(Result(result).sections())


@pytest.mark.parametrize("asked", [
    pytest.param(BenchRequest(calibrate=True), id='--calibrate does not go with ONNX Runtime'),
    pytest.param(BenchRequest(prompt_tokens=(999,)), id='--prompt-tokens 999 is more than the model')
])  # fmt: skip
def test_impossible_requests_are_refused_before_work(out_of, asked):
    out = out_of("llama")
    with refused():
        bench(out, asked)
    assert not (out / "bench").exists()


def test_oversized_models_are_refused_with_numbers(out_of, monkeypatch):
    class Little:
        available = 3 * 2**28
        total = 2**30

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Little)
    out = out_of("llama")
    with refused():
        bench(out, SMALL)
    assert not (out / "bench").exists()


def test_a_replaced_original_is_refused(out_of, make_model):
    out = out_of("llama")
    recipe = out / "recipe.yaml"
    text = recipe.read_text()
    old = next(line for line in text.splitlines() if line.startswith("model:"))
    recipe.write_text(text.replace(old, f"model: {make_model('llama', hidden_size=64)}"))
    OutFolder.open(out, check=False).record("recipe", "changed", ["recipe.yaml"])
    with refused():
        bench(out, SMALL)


def test_earlier_times_are_kept(out_of):
    out = out_of("llama")
    (out / "bench").mkdir()
    (out / "bench/bench.json").write_text("{}")
    with refused():
        bench(out, SMALL)


def test_bf16_builds_are_timed_as_bf16(settings, tmp_path):
    from tests.builds import build

    build(settings | {"dtype": "bfloat16", "method": "magnitude"})
    with refused():
        bench(settings["out"], SMALL)


def test_the_command(out_of):
    out = out_of("llama")
    sizes = ["--batch-size", "1", "--prompt-tokens", "8", "--past-tokens", "8"]
    flags = [*sizes, "--iterations", "2", "--warm-up", "0", "--against", "dense", "--json"]
    done = CliRunner().invoke(cli.commands["bench"], [str(out), *flags], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["rows"][1]["phase"] == "decode"
