"""`--help` lists every method, format and fusion, and imports no heavy package."""

import json
import re
import subprocess
import sys

import click
import pytest

import patch_compile
from masklearn.importers.base import IMPORTERS
from masklearn.quality.record import Baseline
from masklearn.traits import METHODS
from patch_compile.cli.app import cli
from patch_compile.cli.command import HELP_ALL
from patch_compile.packing.fusion import FUSIONS
from tests.commands import run_here

BASIC = "-o --speedup --ratio --target --calib --eval --weights --backend --resume --force --recipe"
# Runs the command with the arguments in this process, and says which packages it imported. Its work is counted too.
COUNTED = """
import json, runpy, sys
from tests.work import at_most_calls

started = set(sys.modules)
try:
    with at_most_calls(300_000):
        runpy.run_module("patch_compile", run_name="__main__", alter_sys=True)
finally:
    imported = {name.partition(".")[0] for name in sys.modules.keys() - started}
    print(json.dumps(sorted(imported - sys.stdlib_module_names)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], *([*name.split(), "--help"] for name in cli.commands)])
def test_help_imports_click_and_does_little(arguments: list[str]) -> None:
    command = [sys.executable, "-c", COUNTED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert json.loads(done.stderr) == ["click", "masklearn", "patch_compile"]


def help_of(name: str, *, everything: bool = False) -> str:
    context = click.Context(cli.commands[name], info_name=name, terminal_width=80)
    if everything:
        context.meta[HELP_ALL] = True
    return cli.commands[name].get_help(context)


def flags_in(text: str) -> list[str]:
    # A command that ran below `patch-compile` has -h too; click keeps its first help option.
    return re.findall(r"^  (?:-h, )?(-[a-z-]+)", text.partition("\nBasic:")[2], re.M)


def test_help_shows_the_basic_options_on_one_screen() -> None:
    for name in ("build", "learn", "plan", "compile", "verify"):
        assert len(help_of(name).splitlines()) <= 40, name
    assert flags_in(help_of("build")) == [*BASIC.split(), "--help", "--help-all"]


def test_help_all_shows_each_option_once_by_group() -> None:
    shown = help_of("build", everything=True)
    headings = ["Basic", "Learning", "Repair", "Workload", "Graph", "Engine", "Evaluation", "Output"]
    assert re.findall(r"^(\w+):$", shown, re.M) == headings
    options = [one.opts[0] for one in cli.commands["build"].params if isinstance(one, click.Option)]
    assert sorted(flags_in(shown)) == sorted([*options, "--help", "--help-all"]) and len(options) <= 48
    assert "FILE.onnx is any ONNX model" in shown
    done = run_here("build", "--help-all")
    assert done.returncode == 0 and flags_in(done.stdout)[:11] == BASIC.split()


@pytest.mark.parametrize(
    ("command", "names"), [("learn", METHODS), ("import-mask", IMPORTERS), ("compile", FUSIONS)]
)
def test_help_lists_what_is_there(command: str, names: dict[str, object]) -> None:
    shown = help_of(command, everything=True)
    assert len(names) >= 4 and all(name in shown for name in names)


@pytest.mark.parametrize(("module", "unlisted"), [("learn", set()), ("verify", {Baseline.DENSE})])
def test_baselines_are_listed_as_they_are_called(module: str, unlisted: set[Baseline]) -> None:
    """`verify` always measures the dense model."""
    option = getattr(patch_compile, module).options["baselines"]
    listed = re.sub(r" \([^)]*\)", "", option.help.partition("list of ")[2]).partition(".")[0]
    assert listed.split(", ") == [name for name in Baseline if name not in unlisted]


def test_command_summaries_fit_their_line() -> None:
    context = click.Context(cli, terminal_width=80)
    lines = cli.get_help(context).partition("Commands:\n")[2].splitlines()
    assert {line[2:].partition("  ")[0] for line in lines} == set(cli.commands)
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []
