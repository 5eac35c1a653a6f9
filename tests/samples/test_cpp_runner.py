"""The C++ runner, linked to a CUDA and a TensorRT that run on the CPU (samples/cpp_runner/tests), without a GPU.

The decoder there is a function of every id, position and slot that the cache and the mask show it; `continued`
computes the same in Python.
"""

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
MODEL = {"layers": 2, "heads": 2, "head_dim": 4, "vocab": 61, "batch": 2, "prompt": 8, "past": 16}


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


@pytest.fixture(scope="module")
def built(tmp_path_factory, headers):
    """Folder of the build that the README describes for a machine without SDK and GPU."""
    folder = tmp_path_factory.mktemp("runner")
    cache = folder / "cache/patch-compile/plugin"  # as `patch-compile plugin` leaves it
    cache.mkdir(parents=True)
    (cache / "headers-0123456789abcdef").symlink_to(headers)
    lines = documented("build/runner-tests")
    assert [line.split()[0] for line in lines] == ["cmake", "cmake"]
    run_documented(lines, folder, XDG_CACHE_HOME=str(folder / "cache"))
    return folder / "build/runner-tests"


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
    done = subprocess.run([tmp_path / program, tmp_path / "none", *options], capture_output=True, text=True)
    # The program has called the library, whose version is not the version of the headers.
    assert (
        done.returncode == 1
        and "built for version 10 of TensorRT, and the library is version 1" in done.stderr
    )


def test_the_documented_build_says_which_headers_it_lacks(tmp_path):
    (line, *_), empty = documented("build/runner"), str(tmp_path)
    with pytest.raises(
        AssertionError, match=r"set TENSORRT_ROOT to the SDK(.|\n)*`patch-compile plugin` fetches"
    ):
        run_documented([line], tmp_path, XDG_CACHE_HOME=empty)


@pytest.fixture
def run(built, tmp_path, monkeypatch):
    """run(*arguments, engine="lines that differ", **environment) returns the finished process."""

    def run_(*arguments, engine="", **environment):
        (tmp_path / "a.engine").write_text(f"stand-in engine\n{engine}\n")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        command = [built / "patch_runner_stand_in", tmp_path / "a.engine", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)

    return run_


def continued(prompt, new_tokens, eos=None, **sizes):
    """Continuation of a prompt by the decoder."""
    m = MODEL | sizes
    ids = list(prompt)
    while len(ids) < len(prompt) + new_tokens and (len(ids) == len(prompt) or ids[-1] != eos):
        seen = 7
        for position, token in enumerate(ids):
            for layer in range(m["layers"]):
                for said in (token, position):
                    for head in range(m["heads"]):
                        for d in range(m["head_dim"]):
                            seen = (seen * 31 + (said + 3 * layer + 5 * head + 7 * d) % 128) % 1000003
        ids.append(seen % m["vocab"])
    return ids[len(prompt) :]


def printed(*rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def ids(*rows):
    return [f"--ids={','.join(map(str, row))}" for row in rows]


def refused(done, *words):
    assert done.returncode == 1 and done.stdout == "", done
    for word in words:
        assert word in done.stderr
    return done.stderr


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("cache", ["half", "bfloat16"])
@pytest.mark.parametrize("logits", ["half", "bfloat16", "float"])
def test_continues_greedily(run, cache, logits, last):
    done = run(
        *ids([3, 1, 4, 1, 5]),
        "--new-tokens=9",
        engine=f"type {cache}\nlogits {logits}\nlast {last}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == printed(continued([3, 1, 4, 1, 5], 9))


@pytest.mark.parametrize("prompts", [([1, 2, 3], [4, 5, 6]), ([1, 2, 3, 4], [9]), ([9], [1, 2, 3, 4])])
def test_a_batch_says_what_each_prompt_says_alone(run, prompts):
    done = run(*ids(*prompts), "--new-tokens=7", engine="layers 3\nheads 1\nhead_dim 8")
    assert done.stdout == printed(*(continued(p, 7, layers=3, heads=1, head_dim=8) for p in prompts))


def test_the_end_token_ends_its_row(run):
    rows = [[1, 2, 3], [5]]
    endless = [continued(row, 9) for row in rows]
    eos = endless[0][2]
    assert eos not in endless[0][:2] and eos not in endless[1]
    assert run(*ids(*rows), "--new-tokens=9", f"--eos={eos}").stdout == printed(endless[0][:3], endless[1])
    # The prefill's token ends a text too, and no step follows it.
    first = endless[1][0]
    assert run(*ids(rows[1]), "--new-tokens=9", f"--eos={first}").stdout == printed([first])


def test_only_a_full_cache_is_allowed(run):
    prompt = [*range(8)]
    assert run(*ids(prompt), "--new-tokens=10").stdout == printed(continued(prompt, 10))
    refused(
        run(*ids(prompt), "--new-tokens=11"),
        "attention_mask would be [1, 18], and profile 1 (decode) of the engine takes [1, 2] to [2, 17]",
    )


def test_prints_times_of_a_second_generation(run):
    """The stand-in's clock advances a millisecond for each token in the cache."""
    done = run(*ids([1, 2, 3], [4]), "--new-tokens=11", "--time")
    rows = printed(continued([1, 2, 3], 11), continued([4], 11))
    assert done.stdout == (f"{rows}prefill 3.000 ms\ndecode  8.000 ms median, 12.000 ms p90 (10 steps)\n")
    assert "decode" not in run(*ids([1]), "--new-tokens=1", "--time").stdout


def test_shapes_outside_profiles_are_refused(run):
    never = {"STAND_IN_FAIL": "createExecutionContext:1"}
    refused(run(*ids(range(9)), **never), "input_ids would be [1, 9], and profile 0 (prefill)", "to [2, 8]")
    refused(run(*ids([1], [2], [3]), **never), "input_ids would be [3, 1]", "[1, 1] to [2, 8]")
    refused(run(*ids([1, 61]), **never), "token 61 is not in the engine's vocabulary of 61")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop past_key_values.1.value", "input past_key_values.1.value is missing"),
        ("drop present.0.key", "output present.0.key is missing"),
        ("drop position_ids", "input position_ids is missing"),
        ("retype input_ids int32", "input input_ids has another type"),
        ("retype logits int64", "output logits has another type"),
        ("rerank past_key_values.0.key 3", "input past_key_values.0.key has another rank"),
        ("retype present.1.key bfloat16", "output present.1.key has another type"),
        ("add token_type_ids", "input token_type_ids is not known"),
        ("profiles 1", "it has no profile for decode steps"),
    ],
)
def test_other_engines_are_refused(run, change, said):
    refused(run(*ids([1]), engine=change), "not a decoder as patch-compile builds it", said)


def test_an_output_of_another_shape_is_refused(run):
    """The engine knows the output's shape only after the inputs' shapes are set."""
    refused(
        run(*ids([1, 2, 3]), "--new-tokens=2", engine="widen present.1.key -1"),
        "output present.1.key is [1, -1, 3, 4], not [1, 2, 3, 4]",
    )


def test_a_file_that_is_no_engine_is_refused(run, built, tmp_path):
    program = built / "patch_runner_stand_in"

    def start(path):
        return subprocess.run([program, path, "--ids=1"], capture_output=True, text=True)

    (tmp_path / "text.engine").write_text("not an engine")
    refused(start(tmp_path / "text.engine"), "TensorRT: bad magic number", "text.engine (if it contains")
    (tmp_path / "empty.engine").touch()
    refused(start(tmp_path / "empty.engine"), "can't be read: it is empty")
    refused(start(tmp_path / "missing.engine"), "can't be read: No such file or directory")


def test_plugins_come_from_engine_or_library(run, built, tmp_path):
    outside = "plugin beside"
    said = printed(continued([1, 2], 2))
    options = [*ids([1, 2]), "--new-tokens=2"]
    shutil.copy(built / "patch_runner_stand_in", tmp_path / "library.so")  # any ELF file
    assert run(*options).stdout == said
    for path in ("library.so", tmp_path / "library.so"):
        assert run(*options, "--plugin", path, engine=outside).stdout == said
    refused(run(*options, "--plugin=library.so"), "exists already", "leave out --plugin")
    refused(run(*options, engine=outside), "no creator of PatchLinear", "--plugin libpatch_linear.so")
    refused(run(*options, "--plugin=gone.so", engine=outside), "the plugin gone.so does not exist")
    (tmp_path / "text.so").write_text("text")
    refused(run(*options, "--plugin=text.so"), "TensorRT: not a library", "loading the plugin text.so failed")


def test_another_version_of_the_library_is_refused(run):
    refused(run(*ids([1]), STAND_IN_VERSION="90500"), "of TensorRT, and the library is version 9")


CALLS = [
    "createInferRuntime:1", "createExecutionContext:1", "setOptimizationProfileAsync:1",
    "setOptimizationProfileAsync:2", "setInputShape:1", "setInputShape:12", "setTensorAddress:12", "enqueueV3:2",
    "cudaMalloc:1", "cudaMalloc:6", "cudaMallocHost:4", "cudaMemcpyAsync:5", "cudaMemcpy2DAsync:2",
    "cudaStreamCreateWithFlags:1", "cudaStreamSynchronize:2", "cudaEventCreate:2", "cudaEventRecord:4",
    "cudaEventElapsedTime:1",
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_failed_calls_leave_nothing(run, call):
    """The stand-in exits with a code of its own when memory, streams or events are not freed."""
    said = refused(run(*ids([1, 2]), "--new-tokens=4", STAND_IN_FAIL=call))
    assert re.search(rf"patch_runner: {call.partition(':')[0]}\b.* failed", said), said


def test_the_command_line(run, built):
    for arguments, said in (
        (["--beams=4", *ids([1])], "no option --beams"),
        (["--ids"], "--ids needs a value"),
        (["--ids=1,,2"], "--ids: '' is not a number"),
        (["--ids=-1"], "'-1' is not a number"),
        ([], "no prompt is given"),
        (["b.engine", *ids([1])], "'b.engine' is a second one"),
        (["--new-tokens", 0, *ids([1])], "at least 1"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and said in done.stderr and "patch_runner ENGINE" in done.stderr
    done = subprocess.run([built / "patch_runner_stand_in", "--help"], capture_output=True, text=True)
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
