"""`patch-compile compile` makes hybrid ONNX from a checkpoint and masks."""

import json
import shutil

import onnx
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import covered_linears
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import Workspace
from patch_compile.passes import describe_passes
from patch_compile.pipeline.compile import compile_model
from patch_compile.recipe import Recipe
from tests.commands import run, run_here
from tests.mosaics import random_mask
from tests.refusals import refused

SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}


@pytest.fixture
def model(make_model):
    return make_model(**SIZES)


@pytest.fixture
def mask(model, tmp_path):
    masks = {
        name: random_mask(shape, (64, 1 << 20), 0.6, seed)[0]
        for seed, (name, shape) in enumerate(covered_linears(model).linears.items())
    }
    written = MaskSet(masks, method="random", seed=0, base_model="", base_sha256="", ratio_asked=0.3)
    written.save(tmp_path / "masks.safetensors")
    return tmp_path / "masks.safetensors"


@pytest.fixture
def recipe(model, mask, tmp_path):
    def make(**changed):
        settings = {"model": model, "mask": mask, "out": tmp_path / "out", "backend": "onnx"}
        return Recipe.parse(settings | changed)

    return make


def test_out_and_dump(recipe, tmp_path):
    """One run lowers linears in all three ways, and its dump has one file per listed pass."""
    settings = recipe(lowering="mlp.*=plugin,q_proj=split,k_proj=dense,v_proj=dense,o_proj=split")
    answer = compile_model(settings, dump_passes=tmp_path / "passes")
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "onnx",
        "plan.json",
        "recipe.yaml",
    ]
    onnx.checker.check_model(str(out / "onnx" / "model.onnx"), full_check=True)
    assert {row.lowering for row in answer.linears} == {"plugin", "split", "dense"}
    assert json.loads((out / "plan.json").read_text())["linears"] == answer.as_json()["linears"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert {name: sha256_of(out / name) for name in manifest["files"]} == manifest["files"]
    assert answer.onnx.bytes == sum(f.stat().st_size for f in (out / "onnx").glob("model.onnx*"))

    dumped = sorted(path.name for path in (tmp_path / "passes").iterdir())
    names = [f"{number:02d}_{name}.txt" for number, (name, _) in enumerate(describe_passes(), start=1)]
    assert dumped == ["00_start.txt", *names]
    packed, split = ((tmp_path / "passes" / name).read_text() for name in names[-3:-1])
    assert "patch::PatchLinear" in packed and "q_proj/split/" not in packed and "q_proj/split/" in split


def test_out_is_replaced_by_force_only(recipe, tmp_path):
    compile_model(recipe(lowering="dense"))
    before = (tmp_path / "out" / "manifest.json").read_text()
    with refused():
        compile_model(recipe())
    assert (tmp_path / "out" / "manifest.json").read_text() == before
    compile_model(recipe(lowering="split"), dump_passes=tmp_path / "passes", force=True)
    assert (tmp_path / "out" / "manifest.json").read_text() != before
    assert any((tmp_path / "passes").iterdir())


def test_a_run_that_was_killed_is_taken_up(recipe, tmp_path, monkeypatch):
    """The error names the unfinished folder and the flag that continues it; complete files are not written again."""

    def kill(workspace):
        shutil.copytree(workspace.root, tmp_path / "left")
        raise KeyboardInterrupt  # like Ctrl-C, which leaves nothing

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Workspace, "publish", kill)
        compile_model(recipe(lowering="dense"))
    assert not (tmp_path / "out.partial").exists()
    (tmp_path / "left").rename(tmp_path / "out.partial")
    left = tmp_path / "out.partial" / "onnx" / "model.onnx.data"
    written = left.stat().st_ino
    with refused():
        compile_model(recipe(lowering="dense"))
    compile_model(recipe(lowering="dense"), resume=True)
    assert (tmp_path / "out" / "onnx" / "model.onnx.data").stat().st_ino == written
    assert not left.parent.parent.exists()


class TestBadInput:
    def assert_nothing_written(self, tmp_path):
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]

    def test_a_dump_is_not_mixed_with_another(self, recipe, tmp_path):
        (tmp_path / "passes").mkdir()
        (tmp_path / "passes" / "00_start.txt").touch()
        with refused():
            compile_model(recipe(), dump_passes=tmp_path / "passes")
        self.assert_nothing_written(tmp_path)

    def test_masks_of_another_coverage(self, recipe, tmp_path):
        with refused():
            compile_model(recipe(exclude=("*q_proj",)))
        self.assert_nothing_written(tmp_path)

    def test_a_weight_that_does_not_fit(self, recipe, model, tmp_path):
        """The fault shows when the weight is written, long after OUT was begun."""
        from safetensors.numpy import load_file, save_file

        weights = load_file(model / "model.safetensors")
        weights["model.layers.0.mlp.down_proj.weight"][3, 5] = 1e6
        save_file(weights, model / "model.safetensors", {"format": "pt"})
        with refused():
            compile_model(recipe())
        self.assert_nothing_written(tmp_path)


def test_command_line(model, mask, tmp_path):
    listed = run("compile", "--list-passes")
    assert listed.returncode == 0 and not listed.stderr
    lines = listed.stdout.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == [name for name, _ in describe_passes()]
    assert all(len(line.split(": ", 1)[1]) > 10 for line in lines)
    done = run_here("compile", model, "--mask", mask, "-o", tmp_path / "out", "--lowering", "split", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["onnx"]["path"] == str(tmp_path / "out" / "onnx" / "model.onnx")
