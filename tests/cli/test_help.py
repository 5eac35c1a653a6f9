"""`--help` lists every method, format and fusion, and imports no heavy package."""

import json
import re
import subprocess
import sys
from importlib import import_module

import click
import pytest

from masklearn.importers.base import IMPORTERS
from masklearn.quality.record import Baseline
from masklearn.traits import METHODS
from patch_compile.cli.app import cli
from patch_compile.packing.fusion import FUSIONS

HELP = [sys.executable, "-m", "patch_compile"]
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


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["import-mask", "--help"]])
def test_help_imports_click_and_does_little(arguments: list[str]) -> None:
    command = [sys.executable, "-c", COUNTED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert json.loads(done.stderr) == ["click", "masklearn", "patch_compile"]


@pytest.mark.parametrize(
    ("command", "names"), [("learn", METHODS), ("import-mask", IMPORTERS), ("compile", FUSIONS)]
)
def test_help_lists_what_is_there(command: str, names: dict[str, object]) -> None:
    shown = subprocess.run([*HELP, command, "--help"], check=True, capture_output=True, text=True).stdout
    assert len(names) >= 4 and all(name in shown for name in names)


@pytest.mark.parametrize(("module", "unlisted"), [("learn", set()), ("verify", {Baseline.DENSE})])
def test_baselines_are_listed_as_they_are_called(module: str, unlisted: set[Baseline]) -> None:
    """`verify` always measures the dense model."""
    option = import_module(f"patch_compile.cli.{module}")._OWN["baselines"]
    listed = re.sub(r" \([^)]*\)", "", option.help.partition("list of ")[2]).partition(".")[0]
    assert listed.split(", ") == [name for name in Baseline if name not in unlisted]


def test_every_command_has_its_whole_line_in_the_list() -> None:
    context = click.Context(cli, terminal_width=80)
    lines = cli.get_help(context).partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in lines} == set(cli.commands)
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []
