"""The first sample by its page, and rules for the pages of all samples."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from patch_compile.api.plan import plan
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


def test_the_demo_shows_a_gain() -> None:
    root = SAMPLES.parent
    demo = (root / "Makefile").read_text().split("\ndemo:")[1].split("\n\n")[0]
    model, ratio, target = re.search(r"plan (\S+) --ratio (\S+) --target (\S+)", demo).groups()  # type: ignore[union-attr]
    planned = plan(root / model, ratio=float(ratio), target=target)
    assert planned.speedup is not None and planned.speedup > 1.3


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
