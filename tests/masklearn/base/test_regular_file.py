"""FIFOs, devices and folders are refused before they are opened."""

import os
from pathlib import Path

import pytest

from masklearn.base.npz import ArrayArchive
from masklearn.base.safe_read import read_json
from patch_compile.artifacts.recipe_file import read_recipe
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import load_proto


@pytest.mark.parametrize(
    "read", [read_json, ArrayArchive, load_proto, read_recipe], ids=lambda one: one.__name__
)
def test_no_reader_waits_for_a_fifo_or_reads_a_device(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, kind in (("fifo", "a FIFO"), ("device", "a device"), (".", "a folder")):
        with pytest.raises((OSError, PatchCompileError), match=f"It is {kind}, not a file"):
            read(tmp_path / name)
