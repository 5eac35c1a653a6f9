"""The library that was built beforehand is found, and the scripts start one short process under NVIDIA's tools."""

import importlib
import os
import subprocess

import pytest

from tests.plugins.host_kernel import BENCH
from tests.refusals import refused

assert BENCH.is_dir()  # host_kernel has put it on the path
build, launch_once, run = map(importlib.import_module, ("build_library", "launch_once", "run"))

# A tool of NVIDIA: writes its arguments to a file, prints a line, and ends with its exit code.
TOOL = """#!/bin/bash
[ "$1" = --help ] && { echo "  --kernel-regex arg"; exit; }
printf '%s\\n' "$@" > "$(dirname "$0")/arguments-$(basename "$0")-${1#--}"
echo "what the tool says"
exit CODE
"""


def script(tmp_path, name, *arguments, code=0):
    """Run a script with stand-ins for the tools; returns what it did, and its folder."""
    for tool in ("compute-sanitizer", "ncu"):
        (tmp_path / tool).write_text(TOOL.replace("CODE", str(code)))
        (tmp_path / tool).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(BENCH / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)


def started(tmp_path, file):
    """The tool's own arguments, and the arguments of the program that it starts."""
    lines = (tmp_path / file).read_text().splitlines()
    place = lines.index("python3")
    return lines[:place], lines[place + 1], lines[place + 2 :]


def test_a_sanitizer_watches_one_configuration(tmp_path):
    done = script(tmp_path, "sanitize.sh", "racecheck", "dense path", "found", code=9)
    assert done.returncode == 9 and done.stdout == "what the tool says\n"
    tool, program, arguments = started(tmp_path, "arguments-compute-sanitizer-tool")
    assert tool == ["--tool", "racecheck", "--error-exitcode", "9", "--kernel-regex", "kns=patch_"]
    assert program == "benchmarks/kernels/run.py"
    asked = run._arguments(arguments)
    assert asked.check_only == "dense path"
    assert asked.out == tmp_path / "found" / "racecheck.jsonl"
    assert (tmp_path / "found" / "racecheck-dense-path.txt").read_text() == "what the tool says\n"


@pytest.mark.parametrize("what", ["decode", "int4", "prefill"])
def test_a_profile_is_of_one_kernel(tmp_path, what):
    assert script(tmp_path, "profile.sh", what, "profiles").returncode == 0
    tool, program, arguments = started(tmp_path, "arguments-ncu-set")
    assert program == "benchmarks/kernels/launch_once.py"
    assert tool[tool.index("--export") + 1] == str(tmp_path / "profiles" / what)
    asked = launch_once._arguments(arguments)
    assert (asked.weights == "int4") == (what == "int4")
    assert (tmp_path / "profiles" / f"{what}.txt").read_text() == "what the tool says\n"


@pytest.mark.parametrize("name", ["sanitize.sh", "profile.sh"])
def test_without_arguments_a_script_says_its_usage(tmp_path, name):
    done = script(tmp_path, name)
    assert done.returncode == 2 and done.stderr.startswith(f"usage: {name} ")


def test_the_library_of_the_variable_is_taken(tmp_path, monkeypatch):
    library = tmp_path / "libpatch_bench.so"
    monkeypatch.setenv("PATCH_BENCH_LIBRARY", str(library))
    with refused():
        build.library_for("sm_90")
    library.write_bytes(b"one")
    assert build.library_for("sm_90") == library


def test_without_the_variable_it_is_built_once(tmp_path, monkeypatch):
    built = []

    def built_library(folder, arch, *, plugin):
        built.append(folder)
        folder.mkdir()
        (folder / "libpatch_bench.so").write_bytes(arch.encode())
        return folder / "libpatch_bench.so"

    monkeypatch.delenv("PATCH_BENCH_LIBRARY", raising=False)
    monkeypatch.setattr(build, "plugin_cache", lambda: tmp_path)
    monkeypatch.setattr(build, "build_library", built_library)
    first = build.library_for("sm_90")
    assert build.library_for("sm_90") == first and len(built) == 1
    assert build.library_for("sm_86") != first
