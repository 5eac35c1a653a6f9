"""`--help` lists every method, format and fusion, and answers at once."""

import re
import resource
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
# Importing these modules of Python's own takes half as long as --help, on a host that is slow for a while, too.
MODULES = [
    sys.executable,
    "-c",
    "import asyncio, decimal, email.message, http.client, unittest, xml.dom.minidom",
]
MOST_SECONDS = 0.3  # of CPU time


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["import-mask", "--help"]])
def test_help_takes_no_time(arguments: list[str]) -> None:
    """On a slow host it may take longer, in proportion to Python's own modules."""
    times = [(cpu_seconds([*HELP, *arguments]), cpu_seconds(MODULES)) for _ in range(3)]
    ours, modules = (min(one) for one in zip(*times, strict=True))
    assert ours < max(MOST_SECONDS, 3 * modules)


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
