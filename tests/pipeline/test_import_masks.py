"""`import-mask` on the command line, and `build --mask` with its result."""

import json

from click.testing import CliRunner

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.cli.app import cli
from patch_compile.errors import PatchCompileError
from tests.masklearn.importers import sources


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
    assert f"build {source} --mask {out} --exclude '*.v_proj'" in done.stderr
    assert "tile: 16x16" in done.stderr
    assert (
        "left dense: model.layers.0.self_attn.v_proj"
        in run(source, "--model", model, "-o", out, "--exclude", "*.v_proj", "--force").stdout
    )


def test_masks_alone_leave_the_weights_to_the_model(make_model, tmp_path):
    model = make_model()
    keeps = {
        name: mask.keep()
        for name, mask in sources.uniform(covered_linears_of(Checkpoint.open(model))).items()
    }
    source = sources.write_npz(tmp_path / "mask.npz", sources.maskllm_members(keeps))
    done = run(
        source, "--model", model, "-o", tmp_path / "m.safetensors", "--tile", "32x32", "--format", "maskllm"
    )
    assert done.exit_code == 0, done.output
    assert f"build {model} --mask" in done.stderr
    facts = dict(line.split() for line in done.stdout.splitlines()[:4])
    assert facts == {
        "masks": str(tmp_path / "m.safetensors"),
        "ratio": "0.500",
        "zeros": "0.500",
        "format": "maskllm",
    }
    assert MaskSet.load(tmp_path / "m.safetensors")["model.layers.0.mlp.up_proj"].tile == (32, 32)


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


def test_mistakes_write_nothing(make_model, tmp_path):
    done = run(tmp_path / "nowhere", "--model", make_model(), "-o", tmp_path / "x")
    assert "No masks at" in str(done.exception)
    assert not (tmp_path / "x").exists()
    assert run(tmp_path, "-o", tmp_path / "x").exit_code == 2
    assert run(tmp_path, "--model", tmp_path, "-o", "x", "--format", "prayer").exit_code == 2
