"""The library in the wheel for aarch64 registers itself with TensorRT 11 for aarch64, in an emulator of that processor."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from patch_compile.plugin.compiling import plugin_cache
from patch_compile.plugin.prebuilt import LIBRARY_NAME, PACKAGE
from patch_compile.plugin.targets import AARCH64
from patch_compile.plugin.toolchain import fetch_headers, find_cxx
from tests.plugins.tidy import cuda_headers

ROOT = Path(__file__).parents[2]
EMULATOR = shutil.which("qemu-aarch64")
SYSTEM = Path("/usr/aarch64-linux-gnu")  # of Debian's package of the compiler
RUNTIME = "tensorrt-dispatch-cu13-libs==11.4.0.106"
MADE = sorted((ROOT / "dist").glob(f"{PACKAGE}-*_{AARCH64}.whl"))
pytestmark = [
    pytest.mark.wheels,
    pytest.mark.skipif(
        not MADE, reason='dist has no wheel for aarch64: `make wheels WHEELS="--machine aarch64"`'
    ),
    pytest.mark.skipif(EMULATOR is None, reason="there is no qemu-aarch64 (Debian: qemu-user)"),
    pytest.mark.skipif(
        not SYSTEM.is_dir(), reason="there is no g++ for aarch64 (Debian: g++-aarch64-linux-gnu)"
    ),
]


def fetched(folder: Path) -> Path:
    """TensorRT's dispatch runtime for aarch64, which needs no GPU for its registry."""
    platforms = [word for tag in ("2_28", "2_35") for word in ("--platform", f"manylinux_{tag}_{AARCH64}")]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    subprocess.run([*pip, "-d", str(folder), RUNTIME], check=True)
    (made,) = folder.glob("*.whl")
    zipfile.ZipFile(made).extractall(folder)
    (library,) = folder.glob("*/libnvinfer_dispatch.so.11")
    return library


def test_it_registers_itself(tmp_path: Path) -> None:
    zipfile.ZipFile(MADE[-1]).extractall(tmp_path / "wheel")
    plugin = tmp_path / "wheel" / PACKAGE / "tensorrt" / LIBRARY_NAME
    if not plugin.is_file():
        pytest.skip("the wheel has no plugin for full TensorRT")
    (tmp_path / "runtime").mkdir()
    headers = fetch_headers(plugin_cache(), print).path
    cxx = str(find_cxx(AARCH64).path)
    flags = ["-std=c++17", "-DPATCH_BACKEND=tensorrt", "-I", str(ROOT / "plugins")]
    flags += ["-isystem", str(headers), "-isystem", str(cuda_headers())]
    source, program = Path(__file__).with_name("list_creators.cpp"), tmp_path / "list"
    subprocess.run([cxx, *flags, str(source), "-o", str(program), "-ldl"], check=True)
    command = [
        str(EMULATOR),
        "-L",
        str(SYSTEM),
        str(program),
        str(fetched(tmp_path / "runtime")),
        str(plugin),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["PatchLinear 2"]
