"""The plugin is compiled for machines of another kind, and never taken for one of this kind."""

import shutil
import subprocess
from pathlib import Path

import pytest

from patch_compile.plugin import compiling
from patch_compile.plugin.build import PluginLibrary, _check_made, build_plugin
from patch_compile.plugin.compiling import compile_units, kernel_objects, plugin_cache
from patch_compile.plugin.cross import Cross, cross_compile
from patch_compile.plugin.identity import check_backend, read_identity
from patch_compile.plugin.kernels import KERNELS
from patch_compile.plugin.targets import AARCH64, MACHINES, X86, this_machine
from patch_compile.plugin.toolchain import (
    Tool,
    describe_toolchain,
    fetch_headers,
    find_cxx,
    find_nvcc,
    plugin_sources,
)
from tests.plugin.identities import identity_text
from tests.refusals import refused

OTHER = next(machine for machine in MACHINES if machine != this_machine())
TOOLS_MISSING = [item.what for item in describe_toolchain() if not item.found]
IDENTITY = identity_text("tensorrt", machine=None).decode().rstrip("\0")  # of a library that names no machine


def toolkit(folder: Path, target: str | None) -> Tool:
    (folder / "bin").mkdir(parents=True)
    if target:
        (folder / "targets" / target / "lib").mkdir(parents=True)
        (folder / "targets" / target / "lib" / "libcudart_static.a").touch()
    (nvcc := folder / "bin" / "nvcc").write_text(f"#!/bin/sh\necho '#$ TOP={folder}/bin/..' >&2\n")
    nvcc.chmod(0o755)
    return Tool(nvcc, "12.9.86")


def test_toolkit_libraries_of_the_machine_are_taken(tmp_path: Path) -> None:
    cxx = Tool(Path("g++-for-it"), "14")
    nvcc = toolkit(tmp_path, {AARCH64: "sbsa-linux", X86: "x86_64-linux"}[OTHER])
    cross = cross_compile(OTHER, nvcc, cxx, tmp_path, print)
    assert cross.compiling == ("-ccbin", "g++-for-it", "-isystem", f"{tmp_path}/include")
    lib = tmp_path / "targets" / {AARCH64: "sbsa-linux", X86: "x86_64-linux"}[OTHER] / "lib"
    assert cross.linking == (*cross.compiling, "-L", str(lib))
    assert cross_compile(this_machine(), nvcc, cxx, tmp_path, print) == Cross(this_machine())


def test_an_unknown_release_of_cuda_is_named(tmp_path: Path) -> None:
    with refused():
        cross_compile(OTHER, toolkit(tmp_path, None), Tool(Path("g++"), "14"), tmp_path, print)


def test_missing_compilers_and_unknown_machines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("NVCC_CCBIN", "g++-of-this-machine")
    monkeypatch.delenv(f"NVCC_CCBIN_{OTHER.upper()}", raising=False)
    with refused():
        find_cxx(OTHER)
    with refused():
        build_plugin("tensorrt", machine="sparc")


def test_machines_have_separate_kernel_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compile_units", lambda *_: [])
    about = (tmp_path, (80,), Tool(Path("nvcc"), "13.0"), Tool(Path("g++"), "14"))
    folders = {
        kernel_objects(*about, cross=cross)[0].parent for cross in (None, Cross(this_machine()), Cross(OTHER))
    }
    assert len(folders) == 2


def library_for(folder: Path, machine: str) -> Path:
    (library := folder / "library.so").write_text(f"{IDENTITY}{machine}\0")
    return library


def test_a_library_without_a_machine_is_for_x86(tmp_path: Path) -> None:
    assert read_identity(library_for(tmp_path, "")).machine == X86
    library = library_for(tmp_path, f" machine={this_machine()}")
    assert check_backend(library, "tensorrt").machine == this_machine()


def test_foreign_libraries_are_refused_unloaded(tmp_path: Path) -> None:
    library = library_for(tmp_path, f" machine={OTHER}")
    assert read_identity(library).machine == OTHER
    with refused():
        check_backend(library, "tensorrt")


def test_a_new_library_is_what_was_asked_for(tmp_path: Path) -> None:
    fresh = library_for(tmp_path, f" machine={OTHER}")

    def check(backend: str, machine: str) -> None:
        library = PluginLibrary(
            fresh, backend, (80,), KERNELS, None, "13.0", None, "10.14", None, "key", machine
        )
        _check_made(fresh, library)

    check("tensorrt", OTHER)
    with refused():
        check("tensorrt-rtx", OTHER)
    with refused():
        check("tensorrt", this_machine())


@pytest.mark.skipif(bool(TOOLS_MISSING), reason=f"to compile the plugin there is no {TOOLS_MISSING}")
@pytest.mark.skipif(shutil.which(f"{OTHER}-linux-gnu-g++") is None, reason=f"there is no g++ for {OTHER}")
def test_cross_compiling_makes_foreign_files(tmp_path: Path) -> None:
    """`make wheels` compiles all sources; this test compiles build_info.cu, which names the machine."""
    nvcc, cxx = find_nvcc(), find_cxx(OTHER)
    if not nvcc.version.startswith("13.0."):
        pytest.skip(f"the CUDA runtime for {OTHER} is pinned for CUDA 13.0, and this is {nvcc.version}")
    (cache := plugin_cache()).mkdir(parents=True, exist_ok=True)
    cross = cross_compile(OTHER, nvcc, cxx, cache, print)
    headers = fetch_headers(cache, print).path
    flags = [*cross.compiling, "-DPATCH_BACKEND=tensorrt", "-isystem", str(headers)]
    unit = plugin_sources() / "tensorrt" / "build_info.cu"
    (made,) = compiling.compile_units([unit], tmp_path, (80,), nvcc.path, flags)
    assert read_identity(made).machine == OTHER
    said = subprocess.run(["readelf", "-h", str(made)], capture_output=True, text=True, check=True).stdout
    assert {AARCH64: "AArch64", X86: "X86-64"}[OTHER] in said


@pytest.mark.skipif(bool(TOOLS_MISSING), reason=f"to compile there is no {TOOLS_MISSING}")
def test_no_file_of_the_current_folder_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvcc includes ./cuda_runtime.h, and lets its parts load ./libdl.so.2, wherever it works."""
    (current := tmp_path / "current").mkdir()
    (current / "cuda_runtime.h").write_text("#error from the current folder\n")
    (current / "libdl.so.2").write_text("no library\n")
    (current / "unit.cu").write_text("__global__ void nothing() {}\n")
    (current / "made").mkdir()
    monkeypatch.chdir(current)
    (made,) = compile_units([Path("unit.cu")], Path("made"), (80,), find_nvcc().path, [])
    assert made.read_bytes().startswith(b"\x7fELF")
