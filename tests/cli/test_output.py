"""Stdout may be full, closed, or a pipe that nobody reads."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_here
from tests.conftest import write_model
from tests.refusals import refusal

ROOT = Path(__file__).resolve().parents[2]


def to(stdout, *arguments, cwd=ROOT):
    """Run a command whose stdout is what the shell opens by `stdout`."""
    shell = ["sh", "-c", f'"$@" {stdout}', "sh", sys.executable, "-m", "patch_compile", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(shell, capture_output=True, text=True, cwd=cwd, env=env)


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("doctor", "--json"), ("--version",), ("plan", "--help")], ids="-".join
)
def test_a_full_stdout_is_named(arguments):
    refusal(to("> /dev/full", *arguments))


@pytest.mark.parametrize("arguments", [("doctor",), ("doctor", "--json"), ("--help",)], ids="-".join)
def test_a_reader_may_leave(arguments):
    """The pipe has no reader from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "patch_compile", *arguments]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("stdout", "code"), [("> /dev/full", 1), (">&-", 0)])
def test_out_is_whole_without_stdout(tmp_path, stdout, code):
    """No file of OUT gets the number of the closed stdout, into which a library may print."""
    write_model(tmp_path / "model", "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    settings = ("--ratio", "0.4", "--method", "magnitude", "--tile", "32x32")
    done = to(stdout, "learn", "model", "-o", "out", *settings, cwd=tmp_path)
    assert done.returncode == code and "--resume" not in done.stderr
    assert ("files that the command has written are whole" in done.stderr) == (code == 1)
    inspected = run_here("inspect", tmp_path / "out")
    assert inspected.returncode == 0, inspected.stderr
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("limit", [200, 3_000, 40_000])
def test_a_file_too_large_is_named(tmp_path, limit):
    """`ulimit -f`: the first file of OUT that is too large."""
    write_model(tmp_path / "model", "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    settings = ("--ratio", "0.4", "--method", "magnitude", "--tile", "32x32")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        done = run_here("learn", tmp_path / "model", "-o", tmp_path / "out", *settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refusal(done)
