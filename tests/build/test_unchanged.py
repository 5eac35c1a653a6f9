"""A model or a text that changes in the middle of a build stops it, and nothing is recorded of the stage."""

import os
import shutil

import pytest

from masklearn.checkpoint.unchanged import FilesAsFound
from patch_compile.build.stages import _Run
from patch_compile.errors import PatchCompileError
from tests.builds import build


@pytest.mark.parametrize("stage", ["write_masks", "write_onnx", "write_report"])
def test_a_checkpoint_that_changes_in_mid_build(settings, tmp_path, monkeypatch, stage):
    model, out = shutil.copytree(settings["model"], tmp_path / "model"), settings["out"]
    shard = next(model.glob("*.safetensors"))
    whole, written = shard.read_bytes(), getattr(_Run, stage)

    def write(run, root):
        written(run, root)
        shard.write_bytes(whole[:-2] + bytes(2))

    with monkeypatch.context() as patch:
        patch.setattr(_Run, stage, write)
        with pytest.raises(
            PatchCompileError, match=rf"{shard.name} was changed while it was being built from"
        ):
            build(settings | {"model": model})
    assert not out.exists()
    shard.write_bytes(whole)
    resumed = build(settings | {"model": model}, resume=True)
    undisturbed = build(settings | {"model": model, "out": tmp_path / "other"})
    assert resumed["model"]["sha256"] == undisturbed["model"]["sha256"]
    for name in ("masks.safetensors", "onnx/model.onnx", "onnx/model.onnx.data"):
        assert (out / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_every_way_to_change_a_file_is_seen(tmp_path):
    file, gone = tmp_path / "a", tmp_path / "gone"
    file.write_bytes(b"1234")
    found = FilesAsFound.of(lambda: [file, gone])
    found.check()
    stat = file.stat()
    (tmp_path / "b").write_bytes(b"1234")
    os.utime(tmp_path / "b", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "b").replace(file)  # another inode
    with pytest.raises(PatchCompileError, match="was changed"):
        found.check()
    found = FilesAsFound.of(lambda: [file, gone])
    gone.touch()
    with pytest.raises(PatchCompileError, match="gone was changed"):
        found.check()
