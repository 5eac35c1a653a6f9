"""`import-mask` on the command line, and `build --mask` with its result."""

import json

import pytest
from click.testing import CliRunner

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.api.results import Result
from patch_compile.artifacts.report import read_report
from patch_compile.cli.app import cli
from patch_compile.comparison import compare
from patch_compile.errors import PatchCompileError
from patch_compile.pipeline.learn import learn
from patch_compile.recipe import Recipe
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.verdict import verdict
from patch_compile.report.terminal import show
from patch_compile.report.verify import verified
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import verify
from tests.builds import build, check_out
from tests.masklearn.importers import sources
from tests.refusals import refused


def run(*arguments):
    return CliRunner().invoke(cli, ["import-mask", *map(str, arguments)])


def test_a_pruned_model_from_the_command_line(make_model, tmp_path):
    model, out = make_model(), tmp_path / "masks.safetensors"
    checkpoint = Checkpoint.open(model)
    coverage = covered_linears_of(checkpoint, (), ("*.v_proj",))
    expected = sources.mosaics(coverage, (16, 16))
    keeps = {name: mask.keep() for name, mask in expected.items()}
    source = sources.write_pruned(tmp_path / "pruned", checkpoint, keeps)
    done = run(source, "--model", model, "-o", out, "--exclude", "*.v_proj", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    masks = MaskSet.load(out)
    masks.check_covers(coverage.linears)
    assert summary["path"] == str(out)
    assert summary["format"] == "checkpoint"
    assert summary["ratio"] == masks.ratio > 0.1
    assert abs(summary["zeros"] - masks.ratio) < 1e-3
    assert len(summary["linears"]) == len(expected)
    assert all(row.keys() == {"name", "shape", "zeroed", "tiles"} for row in summary["linears"])
    assert masks.record.skipped["model.layers.0.self_attn.v_proj"] == "excluded"
    assert f"build {model} --mask {out} --pruned {source} --exclude '*.v_proj'" in done.stderr
    assert "tile: 16x16" in done.stderr
    assert (
        "left dense: model.layers.0.self_attn.v_proj"
        in run(source, "--model", model, "-o", out, "--exclude", "*.v_proj", "--force").stdout
    )


def test_published_patch_masks_become_a_build(settings, tmp_path):
    model, out = settings["model"], tmp_path / "masks.safetensors"
    checkpoint = Checkpoint.open(model)
    keeps = {
        name: mask.keep() for name, mask in sources.mosaics(covered_linears_of(checkpoint), (16, 16)).items()
    }
    source = sources.publish_patch(tmp_path / "mask.npz", checkpoint, keeps, "someone/tiny")
    done = run(source, "--model", model, "-o", out)
    assert done.exit_code == 0, done.output
    assert f"build {model} --mask {out}" in done.stderr
    report = build({name: value for name, value in settings.items() if name != "ratio"} | {"mask": out})
    assert report["ratio"] == MaskSet.load(out).ratio > 0.1
    written = Checkpoint.open(settings["out"] / "model")
    for name, keep in keeps.items():
        dense = checkpoint.read(f"{name}.weight")
        assert (written.read(f"{name}.weight") == dense * keep).all()


@pytest.mark.parametrize("made_for", ["someone/tiny", "someone/else"])
def test_import_says_whether_the_base_model_is_known(make_model, tmp_path, monkeypatch, made_for):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--tiny/snapshots/0123"
    model.parent.mkdir(parents=True)
    make_model().rename(model)
    checkpoint = Checkpoint.open(model)
    keeps = {name: mask.keep() for name, mask in sources.uniform(covered_linears_of(checkpoint)).items()}
    source = sources.publish_patch(tmp_path / "mask.npz", checkpoint, keeps, made_for)
    said = run(source, "--model", model, "-o", tmp_path / "m.safetensors").stderr
    known = "base model: someone/tiny@0123, for which the masks were made" in said
    unknown = (
        "made for someone/else; someone/tiny@0123 has the names and shapes of its linears, but whether"
        in said
    )
    assert (known, unknown) == (made_for == "someone/tiny", made_for == "someone/else")
    bare = sources.write_npz(tmp_path / "bare.npz", sources.maskllm_members(keeps))
    assert (
        "the source does not name it" in run(bare, "--model", model, "-o", tmp_path / "b.safetensors").stderr
    )


@pytest.fixture
def pruned(settings):
    """A pruned model, and settings for building from its masks."""
    learn(Recipe.parse(settings))
    model = settings["out"] / "model"
    masks = settings["out"].with_name("imported.safetensors")
    given = {name: value for name, value in settings.items() if name not in ("ratio", "calib")}
    return model, given | {"out": settings["out"].with_name("built"), "mask": masks}


def test_no_loss_is_known_without_the_dense_model(pruned, capsys):
    model, given = pruned
    assert f"build {model}" in (told := run(model, "--model", model, "-o", given["mask"]).stderr)
    assert "DENSE_DIR" in told
    report = build(given | {"model": model})
    assert report["dense_given"] is False
    light = verdict(Sources.read(given["out"]))["lights"][1]
    assert (light.colour, light.answer) == ("grey", "Not known: no dense model")
    page, card = ((given["out"] / name).read_text() for name in ("report.html", "README.md"))
    assert "Not known: no dense model" in page and "the dense model was not given" in card
    assert "±0%" not in page and "±0%" not in card and "KL to dense" not in page
    show(Result(read_report(given["out"])).sections())
    found = verify(given["out"], VerifyRequest.parse({"only": "pruned", "fail_on": ("ppl:900",)}))
    assert found.passed and not found.dense_given and found.baselines is None
    show(verified(found, given["out"]))
    said = capsys.readouterr().out
    assert (
        said.count("Pruned how much? ○ not known: the dense model was not given") == 2 and "±0%" not in said
    )
    for unanswerable in (
        {"fail_on": ("ppl:+5%",)},
        {"fail_on": ("kl:0.1",)},
        {"baselines": ("dense-rounded",)},
    ):
        with refused():
            verify(given["out"], VerifyRequest.parse({"only": "pruned"} | unanswerable))
    with refused():
        compare([given["out"]])


def test_pruned_weights_are_measured_against_dense(settings, make_model, pruned):
    model, given = pruned
    told = run(model, "--model", settings["model"], "-o", given["mask"]).stderr
    assert f"build {settings['model']} --mask {given['mask']} --pruned {model}" in told
    report = build(given | {"pruned": model})
    assert report["dense_given"] and report["perplexity"]["dense"] != report["perplexity"]["pruned"]
    weights = "model.safetensors"
    assert (given["out"] / "model" / weights).read_bytes() == (model / weights).read_bytes()
    check_out(given["out"], report, "model/config.json")
    other = make_model(hidden_size=64)
    with refused():
        build(given | {"pruned": other}, force=True)
    with refused():
        build(settings | {"pruned": model}, force=True)


def test_nothing_is_overwritten(make_model, tmp_path):
    source, out = tmp_path / "source", tmp_path / "masks.safetensors"
    source.mkdir()
    out.write_text("mine")
    done = run(source, "--model", make_model(), "-o", out)
    assert isinstance(done.exception, PatchCompileError)
    assert "not overwritten unasked" in str(done.exception)
    assert out.read_text() == "mine"
    done = run(source, "--model", make_model(), "-o", tmp_path / "no" / "x")
    assert "is not a folder" in str(done.exception)
