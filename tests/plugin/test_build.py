"""The plugin is really compiled, and every tool that can be missing is named."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from patch_compile.packing.function import VERSION
from patch_compile.plugin import build as plugin
from patch_compile.plugin import compiling, toolchain
from patch_compile.plugin.build import PluginLibrary, build_plugin
from patch_compile.plugin.compiling import compile_units, kernel_objects, units
from patch_compile.plugin.identity import check_backend, read_identity
from patch_compile.plugin.kernels import KERNELS
from patch_compile.plugin.prebuilt import LIBRARY_NAME
from patch_compile.plugin.targets import ARCHS, VARIABLE, X86, runs_on, wanted_archs
from patch_compile.plugin.toolchain import Tool, describe_toolchain, find_cxx, find_nvcc
from tests.plugin.identities import identity_text
from tests.refusals import refused

TOOLS_MISSING = [item.what for item in describe_toolchain() if not item.found]
needs_tools = pytest.mark.skipif(
    bool(TOOLS_MISSING), reason=f"to compile the plugin there is no {TOOLS_MISSING}"
)
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# `make test` compiles for one architecture. All of them take minutes.
every_arch = pytest.param(ARCHS, marks=pytest.mark.mutation)


@needs_tools
@pytest.mark.parametrize("archs", [None, every_arch], ids=["wanted", "all"])
def test_the_plugin_compiles_and_says_what_it_is(archs):
    library = build_plugin("tensorrt-rtx", archs=archs)
    identity = read_identity(library.path)
    expected = (VERSION, "tensorrt-rtx", archs or wanted_archs())
    assert (identity.version, identity.backend, identity.archs) == expected
    assert library.nvcc_version.startswith(identity.cuda)
    assert library.headers_version.startswith(identity.headers)
    # In a process of its own: a loaded plugin registers itself, and other tests of this process load theirs.
    loads = (
        f"import ctypes; found = ctypes.CDLL({str(library.path)!r}); found.getCreators; found.setLoggerFinder"
    )
    assert _python(f"{loads}; print('loaded')") == "loaded\n"
    needed = subprocess.run(["ldd", str(library.path)], capture_output=True, text=True, check=True).stdout
    assert "cudart" not in needed and "nvinfer" not in needed and "tensorrt" not in needed


@needs_tools
def test_all_architectures_are_recorded(tmp_path):
    library = replace(build_plugin("tensorrt-rtx"), archs=ARCHS)
    unit = toolchain.plugin_sources() / "tensorrt" / "build_info.cu"
    flags = [*plugin.identity_flags(library), "-isystem", str(library.headers)]
    (compiled,) = compile_units([unit], tmp_path, ARCHS, library.nvcc, flags)
    assert read_identity(compiled).archs == ARCHS


@needs_tools
def test_a_second_build_comes_from_the_cache():
    first = build_plugin("tensorrt-rtx")
    os.utime(first.path, (1, 1))
    said: list[str] = []
    assert build_plugin("tensorrt-rtx", log=said.append) == first and said == []
    assert first.path.stat().st_mtime > 1  # the time of its last use


@needs_tools
def test_other_backends_plugins_are_refused():
    library = build_plugin("tensorrt-rtx").path
    assert check_backend(library, "tensorrt-rtx").backend == "tensorrt-rtx"
    with refused():
        check_backend(library, "tensorrt")


@needs_tools
def test_two_processes_at_once_compile_once(tmp_path, monkeypatch):
    """Instead of nvcc a slow program runs, and its output is a library that the real nvcc made."""
    library = build_plugin("tensorrt-rtx")
    (tmp_path / "cache").mkdir()
    for headers in library.path.parents[1].glob("headers-*"):
        (tmp_path / "cache" / headers.name).symlink_to(headers)
    slow = executable(
        tmp_path / "nvcc",
        f'[ "$1" = --version ] && exec "{library.nvcc}" --version\n'
        f'sleep 0.3\nfor out; do :; done\ncp "{library.path}" "$out"',
    )
    monkeypatch.setenv("CUDACXX", str(slow))
    code = (
        "from pathlib import Path; from patch_compile.plugin.build import build_plugin\n"
        f"print(build_plugin('tensorrt-rtx', cache_dir=Path({str(tmp_path / 'cache')!r}), log=print).path)"
    )
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda _: _python(code), range(2)))
    assert sum("compiling" in out for out in outputs) == 1
    paths = {out.splitlines()[-1] for out in outputs}
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == library.path.read_bytes()


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@needs_tools
def test_both_backends_share_the_kernels():
    library = build_plugin("tensorrt-rtx")
    cache = library.path.parents[1]
    objects = kernel_objects(cache, library.archs, find_nvcc(), find_cxx())
    before = {file: file.stat().st_mtime_ns for file in objects}
    other = build_plugin("tensorrt")
    assert read_identity(other.path).backend == "tensorrt" and other.path != library.path
    assert {file: file.stat().st_mtime_ns for file in objects} == before


def test_only_missing_or_changed_kernels_recompile(tmp_path, monkeypatch):
    compiled: list[str] = []

    def compile_(sources, folder, archs, nvcc, flags):
        for source in sources:
            compiled.append(source.name)
            (folder / f"{source.name}.o").write_text("")

    sources = tmp_path / "plugins" / "kernels"
    sources.mkdir(parents=True)
    for name in ("a.cu", "b.cpp", "c.cuh"):
        (sources / name).write_text("")
    monkeypatch.setattr(compiling, "compile_units", compile_)
    monkeypatch.setattr(compiling, "plugin_sources", lambda: sources.parent)
    nvcc, cxx = Tool(Path("nvcc"), "13.0.0"), Tool(Path("g++"), "12")

    def again(*, archs=(80,), **options):
        compiled.clear()
        return kernel_objects(tmp_path, archs, nvcc, cxx, **options), list(compiled)

    objects, first = again()
    assert first == ["a.cu", "b.cpp"] == [file.stem for file in objects]
    assert again() == (objects, [])
    objects[0].unlink()
    assert again() == (objects, ["a.cu"])
    assert again(force=True) == (objects, first)
    assert again(names=("b.cpp",), force=True) == (objects[1:], ["b.cpp"])
    assert again(archs=(86,))[1] == again(flags=("-lineinfo",))[1] == first
    (sources / "c.cuh").write_text("other")
    assert again()[1] == first


def cmake(build: Path, *options: str) -> None:
    """Configure a build with CMake."""
    library = build_plugin("tensorrt-rtx")
    settings = {
        "CMAKE_CUDA_ARCHITECTURES": "80-real",
        "CMAKE_CUDA_COMPILER": library.nvcc,
        "PATCH_BACKEND": "tensorrt",
        "TENSORRT_INCLUDE_DIR": library.headers,
    }
    flags = [f"-D{name}={value}" for name, value in settings.items()]
    run = [CMAKE, "-S", str(PLUGINS), "-B", str(build), *flags, *options]
    subprocess.run(run, check=True, capture_output=True, text=True)


needs_cmake = pytest.mark.skipif(CMAKE is None, reason="no cmake")


@needs_tools
@needs_cmake
def test_cmake_compiles_the_same_files(tmp_path):
    cmake(tmp_path, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    files = [unit for folder in plugin._FOLDERS for unit in units(PLUGINS / folder)]
    assert sorted(Path(one["file"]) for one in commands) == sorted(files)
    for one in commands:
        said = one["command"]
        assert "-DPATCH_BACKEND=tensorrt" in said and "-O3" in said and "-DNDEBUG" in said
        assert "visibility=hidden" in said
        assert "sm_80" in said or not one["file"].endswith(".cu")


@pytest.mark.mutation  # it compiles the kernels once more, some minutes
@needs_tools
@needs_cmake
def test_cmake_builds_the_same_library(tmp_path):
    cmake(tmp_path)
    subprocess.run([CMAKE, "--build", str(tmp_path), "-j", "2"], check=True, capture_output=True, text=True)
    identity = read_identity(tmp_path / LIBRARY_NAME)
    assert (identity.backend, identity.archs) == ("tensorrt", (80,))


def test_a_variable_names_the_architectures(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert wanted_archs() == ARCHS
    monkeypatch.setenv(VARIABLE, "90,86")
    assert wanted_archs() == (86, 90)
    for wrong in ("75", "sm_86", "86;90", ","):
        monkeypatch.setenv(VARIABLE, wrong)
        with refused():
            build_plugin("tensorrt", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("archs", "on"),
    [
        ((86,), {86, 87, 89, 90, 100, 120}),
        ((89,), {89, 90, 100, 120}),
        ((90,), {90, 100, 120}),
        ((120,), {120}),
        ((80, 120), {80, 86, 87, 89, 90, 100, 120}),
        (ARCHS, {80, 86, 87, 89, 90, 100, 120}),
        ((80, 86, 87), {80, 86, 87, 89, 90, 100, 120}),
        ((87,), {87, 89, 90, 100, 120}),  # PTX for the others
        ((80,), {80, 86, 87, 89, 90, 100, 120}),  # PTX for Orin
    ],
)
def test_gpus_run_own_majors_and_older_ptx(archs, on):
    assert {sm for sm in (75, 80, 86, 87, 89, 90, 100, 120) if runs_on(sm, archs)} == on


@pytest.mark.parametrize("content", [b"", b"cut off in the middle", None])
def test_a_damaged_library_is_compiled_again(tmp_path, monkeypatch, content):
    """A file that a crash or a full disk left is not used as a plugin."""
    compiled = []

    def compile_(library, *about):
        compiled.append(library)
        library.path.write_bytes(identity_text("tensorrt"))

    monkeypatch.setattr(plugin, "_compile", compile_)
    monkeypatch.setattr(plugin, "find_nvcc", lambda: Tool(Path("nvcc"), "13.0.0"))
    monkeypatch.setattr(plugin, "find_headers", lambda backend: Tool(tmp_path, "10.14.1"))
    library = build_plugin("tensorrt", archs=(80,), cache_dir=tmp_path)
    if content is not None:
        library.path.write_bytes(content)
    build_plugin("tensorrt", archs=(80,), cache_dir=tmp_path)
    assert len(compiled) == (1 if content is None else 2)
    build_plugin("tensorrt", archs=(80,), cache_dir=tmp_path, force=True)
    assert len(compiled) == (2 if content is None else 3)


def test_the_fingerprint_follows_everything_that_goes_in(tmp_path, monkeypatch):
    header = tmp_path / "NvInferRuntime.h"
    header.write_text("a")
    nvcc, cxx, headers = (
        Tool(Path("nvcc"), "13.0.0"),
        Tool(Path("g++"), "12"),
        Tool(tmp_path, "10"),
    )
    prints = [
        plugin._fingerprint("tensorrt", (80,), nvcc, cxx, headers),
        plugin._fingerprint("tensorrt-rtx", (80,), nvcc, cxx, headers),
        plugin._fingerprint("tensorrt", (80, 86), nvcc, cxx, headers),
        plugin._fingerprint("tensorrt", (80,), Tool(nvcc.path, "13.1.0"), cxx, headers),
        plugin._fingerprint("tensorrt", (80,), nvcc, Tool(cxx.path, "13"), headers),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "this_machine", lambda: "riscv64")
        prints.append(plugin._fingerprint("tensorrt", (80,), nvcc, cxx, headers))
    header.write_text("b")
    prints.append(plugin._fingerprint("tensorrt", (80,), nvcc, cxx, headers))
    copy = tmp_path / "plugins"
    for folder in ("kernels", "dense_path", "tensorrt"):
        (copy / folder).mkdir(parents=True)
        for file in (PLUGINS / folder).iterdir():
            (copy / folder / file.name).write_bytes(file.read_bytes())
    (copy / "kernels" / "config.h").write_text("other")
    monkeypatch.setattr(plugin, "plugin_sources", lambda: copy)
    prints.append(plugin._fingerprint("tensorrt", (80,), nvcc, cxx, headers))
    assert len(set(prints)) == len(prints)


def test_machines_have_separate_kernel_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "compile_units", lambda *_: [])
    folders = set()
    for machine in (X86, "riscv64"):
        monkeypatch.setattr(compiling, "this_machine", lambda machine=machine: machine)
        objects = kernel_objects(tmp_path, (80,), Tool(Path("nvcc"), "13.0"), Tool(Path("g++"), "14"))
        folders.add(objects[0].parent)
    assert len(folders) == 2


def test_a_new_library_is_for_the_backend_that_was_asked_for(tmp_path):
    (fresh := tmp_path / "library.so").write_bytes(identity_text("tensorrt"))

    def check(backend):
        about = (backend, (80,), KERNELS, None, "13.0", None, "10.14", None, "key")
        plugin._check_made(fresh, PluginLibrary(fresh, *about))

    check("tensorrt")
    with refused():
        check("tensorrt-rtx")


@needs_tools
def test_no_file_of_the_current_folder_is_compiled(tmp_path, monkeypatch):
    """nvcc includes ./cuda_runtime.h, and lets its parts load ./libdl.so.2, wherever it works."""
    (current := tmp_path / "current").mkdir()
    (current / "cuda_runtime.h").write_text("#error from the current folder\n")
    (current / "libdl.so.2").write_text("no library\n")
    (current / "unit.cu").write_text("__global__ void nothing() {}\n")
    (current / "made").mkdir()
    monkeypatch.chdir(current)
    (made,) = compile_units([Path("unit.cu")], Path("made"), (80,), find_nvcc().path, [])
    assert made.read_bytes().startswith(b"\x7fELF")


FAILS = "[ $1 = --version ] && echo 'release 13.0, V13.0.88' && exit 0; echo 'unsupported GNU version!' >&2; exit 1"


@pytest.mark.parametrize(
    "script",
    [None, "echo 'Cuda compilation tools, release 11.8, V11.8.89'", FAILS],
    ids=["missing", "old", "failing"],
)
def test_an_nvcc_that_cannot_compile_is_refused(tmp_path, monkeypatch, script):
    nvcc = tmp_path / "nvcc"
    if script:
        executable(nvcc, script)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    monkeypatch.setattr(plugin, "find_headers", lambda backend: Tool(tmp_path, "10.14.1"))
    with refused():
        build_plugin("tensorrt", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.so"))


def test_an_old_nvcc_hides_no_new_nvcc(tmp_path, monkeypatch):
    for name, version in (("old", "11.8"), ("new", "13.1")):
        (tmp_path / name / "bin").mkdir(parents=True)
        executable(tmp_path / name / "bin" / "nvcc", f"echo 'tools, release {version}, V{version}.7'")
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/old/bin:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "new"))
    assert plugin.find_nvcc() == (tmp_path / "new" / "bin" / "nvcc", "13.1.7")


def test_the_wheels_nvcc_is_found(tmp_path, monkeypatch):
    wheel = tmp_path / "nvidia" / "cu13" / "bin"
    wheel.mkdir(parents=True)
    executable(wheel / "nvcc", "echo 'tools, release 13.9, V13.9.1'")
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert wheel in list(toolchain.cuda_folders())


def test_a_missing_cxx_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NVCC_CCBIN", "no-such-compiler")
    with refused():
        plugin.find_cxx()


def headers(folder: Path, major: int, macro: str) -> None:
    folder.mkdir(parents=True)
    (folder / "NvInferRuntime.h").write_text("")
    names = "\n".join(
        f"#define NV_TENSORRT_{n} {v}" for n, v in (("MAJOR", macro), ("MINOR", "2"), ("PATCH", "3"))
    )
    (folder / "NvInferVersion.h").write_text(f"#define {macro} {major}\n{names}\n")


def test_installed_headers_are_taken_by_their_version(tmp_path, monkeypatch):
    headers(tmp_path / "full" / "include", 11, "TRT_MAJOR_ENTERPRISE")
    headers(tmp_path / "rtx" / "include", 1, "TRT_MAJOR_RTX")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "full"))
    for backend in ("tensorrt", "tensorrt-rtx"):
        assert plugin.find_headers(backend) == (tmp_path / "full" / "include", "11.2.3")
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "rtx"))
    assert plugin.find_headers("tensorrt-rtx") == (tmp_path / "rtx" / "include", "1.2.3")


@pytest.mark.parametrize(("major", "macro"), [(8, "TRT_MAJOR_ENTERPRISE"), (1, "TRT_MAJOR_RTX")])
def test_headers_that_do_not_fit_are_refused(tmp_path, monkeypatch, major, macro):
    headers(tmp_path / "include", major, macro)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    with refused():
        plugin.find_headers("tensorrt")


def test_failed_header_downloads_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with refused():
        plugin.fetch_headers(tmp_path / "new", lambda message: None)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_is_no_plugin_is_refused(tmp_path):
    (tmp_path / "other.so").write_bytes(b"\x7fELF and so on")
    for path in (tmp_path / "other.so", tmp_path / "missing.so"):
        with refused():
            read_identity(path)


@pytest.mark.parametrize("archs", [(), (75,), (75, 86)])
def test_architectures_without_sparse_tensor_cores_are_refused(tmp_path, archs):
    with refused():
        build_plugin("tensorrt", archs=archs, cache_dir=tmp_path)


def test_the_cache_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plugin.plugin_cache() == tmp_path / "patch-compile" / "plugin"
