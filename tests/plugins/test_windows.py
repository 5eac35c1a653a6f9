"""The plugin's C++ compiles for Windows, as far as MinGW can tell. Nothing is linked: nvcc needs Microsoft's compiler."""

import shutil
import subprocess
from pathlib import Path

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.plugin.compiling import plugin_cache, units
from patch_compile.plugin.toolchain import fetch_headers, find_headers
from tests.plugins.tidy import cuda_headers

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
MINGW = shutil.which("x86_64-w64-mingw32-g++-posix") or shutil.which("x86_64-w64-mingw32-g++")
FILES = [
    unit
    for folder in ("kernels", "dense_path", "tensorrt")
    for unit in units(PLUGINS / folder)
    if unit.suffix == ".cpp"
]
# These ask for the system's functions. `make mutate` compiles all.
OF_THE_SYSTEM = {"library.cpp", "shared_library.cpp", "cublaslt_library.cpp", "registration.cpp"}
pytestmark = pytest.mark.skipif(
    MINGW is None, reason="there is no MinGW (Debian: g++-mingw-w64-x86-64-posix)"
)


@pytest.fixture(scope="module")
def includes() -> list[str]:
    (cache := plugin_cache()).mkdir(parents=True, exist_ok=True)
    try:
        headers = find_headers("tensorrt-rtx") or fetch_headers(cache, print)
        return ["-I", str(PLUGINS), "-isystem", str(cuda_headers()), "-isystem", str(headers.path)]
    except PatchCompileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(one, id=one.name, marks=[] if one.name in OF_THE_SYSTEM else pytest.mark.mutation)
        for one in FILES
    ],
)
def test_it_compiles_without_a_warning(unit: Path, includes: list[str], tmp_path: Path) -> None:
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-DPATCH_BACKEND=tensorrt-rtx", *includes]
    made = tmp_path / "unit.obj"
    done = subprocess.run(
        [str(MINGW), *flags, "-c", str(unit), "-o", str(made)], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert made.read_bytes()[:2] == b"\x64\x86"  # COFF, x86-64
