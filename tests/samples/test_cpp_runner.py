"""The C++ runner compiles without warnings, and links where TensorRT-RTX is installed. No test runs an engine with it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.plugin.toolchain import fetch_headers, find_cxx, find_headers, find_nvcc

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "samples" / "cpp_runner"
SEARCHED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
CMAKE, NINJA = (shutil.which(tool, path=SEARCHED) for tool in ("cmake", "ninja"))


def cuda_include():
    """Folder of the cuda_runtime_api.h that belongs to nvcc, which may be a script; None when there is none."""
    try:
        command = [find_nvcc().path, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
        find_cxx()
    except PatchCompileError:
        return None
    top = re.search(r"^#\$ TOP=(.+)$", subprocess.run(command, capture_output=True, text=True).stderr, re.M)
    folder = Path(top[1]) / "include" if top else Path("/usr/local/cuda/include")
    return folder if (folder / "cuda_runtime_api.h").is_file() else None


CUDA = cuda_include()
pytestmark = pytest.mark.skipif(
    None in (CMAKE, NINJA, CUDA), reason=f"cmake {CMAKE}, ninja {NINJA}, CUDA {CUDA}"
)


@pytest.fixture(scope="module")
def headers(request):
    found = find_headers("tensorrt-rtx")  # either backend's headers will do
    return (found or fetch_headers(request.config.cache.mkdir("patch-plugin"), print)).path


def configure(build, headers, **options):
    options = {
        "CMAKE_MAKE_PROGRAM": NINJA,
        "CMAKE_BUILD_TYPE": "Debug",
        "CMAKE_CXX_FLAGS": "-Wall -Wextra -Werror",
        "CMAKE_CXX_FLAGS_DEBUG": "-O0",
        "TENSORRT_INCLUDE_DIR": headers,
        "CUDA_INCLUDE_DIR": CUDA,
        **options,
    }
    flags = [f"-D{name}={value}" for name, value in options.items()]
    command = [CMAKE, "-G", "Ninja", "-S", SOURCES, "-B", build, *flags]
    return subprocess.run(command, capture_output=True, text=True)


def documented(build):
    """Lines of the README that concern a build folder."""
    lines = (
        line.strip() for line in (SOURCES / "README.md").read_text().splitlines() if line.startswith("    ")
    )
    return [line for line in lines if re.search(rf"{build}(?![\w-])", line)]


def run_documented(lines, folder, **environment):
    """Run lines of the README in a folder that looks like the repository."""
    if not (folder / "samples").exists():
        (folder / "samples").symlink_to(ROOT / "samples")
    env = os.environ | {
        "PATH": SEARCHED,
        "CUDA_ROOT": str(CUDA.parent),
        "CMAKE_GENERATOR": "Ninja",
        "CXXFLAGS": "-Wall -Wextra -Werror -O0",
    }
    env.pop("TENSORRT_ROOT", None)
    for line in lines:
        done = subprocess.run(
            line.replace(" -j", " -j 2"),
            shell=True,
            cwd=folder,
            env=env | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_documented_build_compiles_without_sdk_and_gpu(tmp_path, headers):
    cache = tmp_path / "cache/patch-compile/plugin"  # as `patch-compile plugin` leaves it
    cache.mkdir(parents=True)
    (cache / "headers-0123456789abcdef").symlink_to(headers)
    lines = documented("build/runner-objects")
    assert [line.split()[0] for line in lines] == ["cmake", "cmake"]
    run_documented(lines, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))


@pytest.mark.rtx
def test_the_documented_build_links_to_the_sdk(tmp_path, headers):
    """The SDK is the installed library, and full TensorRT's headers that call themselves RTX's."""
    import tensorrt_rtx_libs

    sdk = tmp_path / "sdk"
    shutil.copytree(headers, sdk / "include")
    version = sdk / "include/NvInferVersion.h"
    version.write_text(re.sub("TRT_(MAJOR|MINOR|PATCH|BUILD)_[A-Z]+", r"TRT_\1_RTX", version.read_text()))
    (sdk / "lib").symlink_to(Path(tensorrt_rtx_libs.__path__[0]))
    *lines, run = documented("build/runner")
    assert [line.split()[0] for line in lines] == ["cmake", "cmake"]
    run_documented(lines, tmp_path, TENSORRT_ROOT=str(sdk))
    program, _, *options = run.split()

    def start(*arguments):
        return subprocess.run([tmp_path / program, *arguments], capture_output=True, text=True)

    done = start(tmp_path / "none", *options)
    # The program has called the library, whose version is not the version of the headers.
    assert (
        done.returncode == 1
        and "built for version 10 of TensorRT, and the library is version 1" in done.stderr
    )
    for arguments, said in (
        (["--beams=4", "--ids=1"], "no option --beams"),
        (["--ids"], "--ids needs a value"),
        (["--ids=1,,2"], "--ids: '' is not a number"),
        (["--ids=-1"], "'-1' is not a number"),
        ([], "no prompt is given"),
        (["b.engine", "--ids=1"], "'b.engine' is a second one"),
        (["--new-tokens=0", "--ids=1"], "at least 1"),
    ):
        done = start("a.engine", *arguments)
        assert done.returncode == 2 and said in done.stderr and "patch_runner ENGINE" in done.stderr
    done = start("--help")
    assert done.returncode == 0 and done.stdout.startswith("patch_runner ENGINE --ids 1,2,3")


def test_configuring_says_what_is_missing(tmp_path, headers):
    """Linking needs the libraries and the headers of one backend."""
    copied = tmp_path / "include"
    shutil.copytree(headers, copied)
    version = copied / "NvInferVersion.h"
    text = version.read_text()
    for backend, macro, library in (
        ("tensorrt", "ENTERPRISE", "nvinfer"),
        ("tensorrt-rtx", "RTX", "tensorrt_rtx"),
    ):
        version.write_text(re.sub("TRT_(MAJOR|MINOR|PATCH|BUILD)_[A-Z]+", rf"TRT_\1_{macro}", text))
        nowhere = {"PATCH_SITE_PACKAGES": tmp_path, "CMAKE_FIND_USE_CMAKE_SYSTEM_PATH": "OFF"}
        done = configure(tmp_path / backend, copied, PATCH_BACKEND=backend, TENSORRT_ROOT=tmp_path, **nowhere)
        assert done.returncode == 1 and f"TENSORRT_LIBRARY (lib{library}" in done.stderr, done.stderr
        other = "tensorrt" if backend == "tensorrt-rtx" else "tensorrt-rtx"
        done = configure(tmp_path / f"not-{other}", copied, PATCH_BACKEND=other)
        assert done.returncode == 1 and f"PATCH_BACKEND is {other}" in done.stderr, done.stderr
