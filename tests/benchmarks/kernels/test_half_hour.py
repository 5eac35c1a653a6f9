"""The script of the half hour on a GPU: a dry run of all steps, and its own decisions with a stand-in for python3."""

import importlib
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from patch_compile.hardware.cards import card_named
from tests.plugins.host_kernel import BENCH

assert BENCH.is_dir()  # host_kernel has put it on the path
dry_run, products, rows, sweep = map(importlib.import_module, ("dry_run", "products", "rows", "sweep"))

# Notes its arguments; a program whose name is in FAILING fails; build_library.py makes a library of 1 MiB, or of MIB.
PYTHON = """#!/bin/bash
echo "$*" >> asked
[[ "$FAILING" && "$*" == *$FAILING* ]] && exit 1
[[ $1 != *build_library.py ]] || { mkdir -p build/gpu && truncate -s "${MIB:-1}M" build/gpu/libpatch_plugin_driver.so; }
"""


def half_hour(script, *arguments, **variables):
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True, env=environment)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the script and a stand-in for python3; returns how the script is called."""
    folder = tmp_path / "checkout"
    (folder / "benchmarks" / "kernels").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".gitignore").write_text("/build/\n/.venv/\nasked\n")
    script = shutil.copy(BENCH / "half_hour.sh", folder / "benchmarks" / "kernels")
    python = folder / ".venv" / "bin" / "python3"
    python.write_text(PYTHON)
    python.chmod(0o755)
    subprocess.run(["git", "init", "--quiet", folder], check=True)

    def call(*arguments, **variables):
        done = half_hour(script, *arguments, **variables)
        asked = folder / "asked"
        return done, asked.read_text().splitlines() if asked.exists() else []

    call.folder = folder
    return call


def test_a_dry_run_measures_every_row(tmp_path):
    done = half_hour(BENCH / "half_hour.sh", "--dry-run", OUT=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"=== step (\w+) ended after \d+ s with code 0", done.stdout) == [
        "one", "two", "three", "four", "five"
    ]  # fmt: skip
    written = rows.read_rows(tmp_path / "gpu.jsonl")

    def keys(measured, stage):
        return sorted(str(row["key"]) for row in rows.measured(measured, stage))

    kernels = dry_run.PlannedKernels(card_named("H100"))
    device = kernels.device()
    setup = kernels, SimpleNamespace(l2=device.l2_bytes), device
    for stage, every in {
        "sweep": sweep.sweep_rows(*setup, ()),
        "products": products.product_rows(*setup),
    }.items():
        assert keys(written, stage) == sorted(str(key) for key, _ in every)
    again = [str(key) for key, _ in sweep.sweep_rows(*setup, ()) if key["tokens"] == 1]
    assert keys(rows.read_rows(tmp_path / "in-turn.jsonl"), "sweep") == sorted(again)
    assert {"decode-128", "int4-decode-64", "w8a8-prefill-128", "prefill-128"} <= {
        row["key"]["config"] for row in rows.measured(written, "check")
    }
    assert {file.name for file in tmp_path.iterdir()} == {
        "gpu.jsonl",
        "in-turn.jsonl",
        "log.txt",
        "profiles.tgz",
    }
    assert (tmp_path / "log.txt").read_text() == done.stdout


def test_a_step_ends_where_nothing_starts(checkout):
    done, asked = checkout("one", FAILING="launch_once.py")
    assert done.returncode == 1 and len(asked) == 1


def test_a_failed_part_does_not_stop_a_step(checkout):
    done, asked = checkout("one", FAILING="--stages check")
    assert done.returncode == 1 and "ended after" in done.stdout
    assert [line.split()[0].split("/")[-1] for line in asked] == [
        "launch_once.py", "run.py", "plugin_on_gpu.py", "run.py", "run.py"
    ]  # fmt: skip


def test_rows_of_earlier_steps_are_taken_along(checkout, tmp_path):
    (checkout.folder / "build" / "gpu").mkdir(parents=True)
    (checkout.folder / "build" / "gpu" / "gpu.jsonl").write_text("rows")
    assert checkout("two", OUT=tmp_path / "new")[0].returncode == 0
    assert (tmp_path / "new" / "gpu.jsonl").read_text() == "rows"
    (tmp_path / "new" / "gpu.jsonl").write_text("more rows")
    assert checkout("three", OUT=tmp_path / "new")[0].returncode == 0
    assert (tmp_path / "new" / "gpu.jsonl").read_text() == "more rows"


@pytest.mark.parametrize(("mib", "code"), [(1, 0), (41, 1)])
def test_what_travels_has_a_limit(checkout, mib, code):
    done, asked = checkout("prepare", MIB=mib)
    assert asked == ["benchmarks/kernels/build_library.py --arch sm_90 -o build/gpu"]
    assert done.returncode == code and done.stdout.startswith(f"{mib} MiB travel")


@pytest.mark.parametrize("arguments", [[], ["six"], ["one", "two"]])
def test_other_arguments_get_the_usage(checkout, arguments):
    done, asked = checkout(*arguments)
    assert done.returncode == 2 and not asked
    assert "half_hour.sh prepare [ARCH]" in done.stderr and "set -uo" not in done.stderr
