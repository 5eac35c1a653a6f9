"""The first sample by its page, and rules for the pages of all samples."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from patch_compile.artifacts.prediction import PAYS
from patch_compile.cli.app import cli
from tests.builds import build

SAMPLES = Path(__file__).parents[2] / "samples"
PAGES = sorted(SAMPLES.glob("*/README.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.parent.name for page in PAGES])
def test_pages_are_short_with_working_links(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= 40
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_page_runs(settings: dict[str, Any]) -> None:
    """`run`, the script and the snippet run on a small model instead of the demo's."""
    build(settings)
    text = (SAMPLES / "quickstart/README.md").read_text().replace("out/smollm2", str(settings["out"]))
    text = text.replace("The capital of France is", "the cat sat on")
    run, script = (
        line.strip() for line in text.splitlines() if "the cat sat on" in line and "    " in line[:4]
    )
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    said = []
    for command in (
        [sys.executable, "-m", "patch_compile", *shlex.split(run)[1:]],
        [sys.executable, *shlex.split(script)[1:]],
        [sys.executable, "-c", snippet],
    ):
        done = subprocess.run(command, capture_output=True, text=True, cwd=SAMPLES.parent)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    assert said[0] == said[1] and all(said)


def test_tiles_pay_in_the_demos_plan() -> None:
    root = SAMPLES.parent
    demo = (root / "Makefile").read_text().split("\ndemo:")[1].split("\n\n")[0]
    arguments = shlex.split(demo.split(" plan ")[1].split("\n")[0])
    planned = CliRunner().invoke(cli, ["plan", str(root / arguments[0]), *arguments[1:], "--json"])
    assert planned.exit_code == 0, planned.output
    found = json.loads(planned.stdout)
    assert found["whole"]["end_to_end"]["by_tiles"] > PAYS and found["little_gain"] is None


def test_the_first_command_has_these_options() -> None:
    text = (SAMPLES / "quickstart/README.md").read_text()
    command = next(line for line in text.splitlines() if "or: patch-compile build" in line)
    options = {
        flag
        for param in cli.commands["build"].params
        if isinstance(param, click.Option)
        for flag in param.opts
    }
    assert set(re.findall(r"--?[a-z][a-z-]*", command.split("build", 1)[1])) - {"-a"} <= options
