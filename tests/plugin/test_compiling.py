"""nvcc works where nobody else writes: its programs load libraries and headers of the current folder."""

from pathlib import Path

import pytest

from patch_compile.plugin.compiling import compile_units
from patch_compile.plugin.toolchain import describe_toolchain, find_nvcc

TOOLS_MISSING = [item.what for item in describe_toolchain() if not item.found]


@pytest.mark.skipif(bool(TOOLS_MISSING), reason=f"to compile there is no {TOOLS_MISSING}")
def test_no_file_of_the_current_folder_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvcc includes ./cuda_runtime.h, and lets its parts load ./libdl.so.2."""
    (current := tmp_path / "current").mkdir()
    (current / "cuda_runtime.h").write_text("#error from the current folder\n")
    (current / "libdl.so.2").write_text("no library\n")
    (current / "unit.cu").write_text("__global__ void nothing() {}\n")
    (current / "made").mkdir()
    monkeypatch.chdir(current)
    (made,) = compile_units([Path("unit.cu")], Path("made"), (80,), find_nvcc().path, [])
    assert made.read_bytes().startswith(b"\x7fELF")
