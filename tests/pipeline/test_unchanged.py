"""A model or a text that changes in the middle of a build stops the build, and nothing is recorded of the stage."""

import os
import shutil

import pytest

from masklearn.model.checkpoint import InputSnapshot
from masklearn.stream.hidden_states import PassCheckpoints
from patch_compile.pipeline.learn import learn
from patch_compile.pipeline.stages import _Run
from patch_compile.recipe import Recipe
from tests.builds import TINY, build
from tests.conftest import texts_in, write_model
from tests.inputs import differences
from tests.refusals import refused


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Settings of a build during which nothing changed, and its report."""
    root = tmp_path_factory.mktemp("undisturbed")
    model = write_model(root / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    settings = {"model": model, "out": root / "out", "ratio": 0.4, **texts_in(root), **TINY}
    return settings, build(settings)


@pytest.mark.parametrize("stage", ["write_masks", "write_onnx", "write_report"])
def test_a_checkpoint_that_changes_in_mid_build(undisturbed, tmp_path, monkeypatch, stage):
    settings, clean = undisturbed
    model, out = shutil.copytree(settings["model"], tmp_path / "model"), tmp_path / "out"
    settings = settings | {"model": model, "out": out}
    shard = next(model.glob("*.safetensors"))
    whole, written = shard.read_bytes(), getattr(_Run, stage)

    def write(run, root):
        written(run, root)
        shard.write_bytes(whole[:-2] + bytes(2))

    with monkeypatch.context() as patch:
        patch.setattr(_Run, stage, write)
        with refused():
            build(settings)
    assert not out.exists()
    shard.write_bytes(whole)
    assert build(settings, resume=True)["model"]["sha256"] == clean["model"]["sha256"]
    for name in ("masks.safetensors", "onnx/model.onnx", "onnx/model.onnx.data"):
        assert (out / name).read_bytes() == (undisturbed[0]["out"] / name).read_bytes()


def test_blocks_of_changed_weights_are_not_resumed(settings, tmp_path, monkeypatch):
    """The weights change when a pass has begun, and are put back before the build is resumed."""
    shard, out = settings["model"] / "model.safetensors", tmp_path / "resumed"
    whole, start = shard.read_bytes(), PassCheckpoints.start

    def change_and_start(*arguments):
        shard.write_bytes(whole[:-4096] + bytes(4096))
        return start(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PassCheckpoints, "start", change_and_start)
        with refused():
            learn(Recipe.parse(settings | {"out": out}))
    shard.write_bytes(whole)
    learn(Recipe.parse(settings | {"out": out}), resume=out.with_name("resumed.partial").exists())
    learn(Recipe.parse(settings | {"out": tmp_path / "clean"}))
    assert differences(out, tmp_path / "clean") == []


def rewritten(file):
    file.write_bytes(b"4321")


def replaced(file):
    other = file.with_name("other")
    other.write_bytes(b"1234")
    other.replace(file)


def linked(file):
    os.link(file, file.with_name("link"))  # as `--force` does with the files of the build that it replaces


@pytest.mark.parametrize("change", [rewritten, replaced, linked])
def test_changes_with_old_times_are_seen(tmp_path, change):
    file = tmp_path / "a"
    file.write_bytes(b"1234")
    found, stat = InputSnapshot.of(lambda: [file]), file.stat()
    file.read_bytes()
    os.utime(file.parent)
    found.check()
    change(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with refused():
        found.check()


def test_files_that_come_and_go_are_seen(tmp_path):
    named = tmp_path / "named"
    found = InputSnapshot.of(lambda: [named, *tmp_path.glob("*.txt")])
    found.check()
    (tmp_path / "b.txt").touch()
    with refused():
        found.check()
    found = InputSnapshot.of(found.find)
    (tmp_path / "b.txt").unlink()
    with refused():
        found.check()
    found = InputSnapshot.of(found.find)
    named.touch()
    with refused():
        found.check()
