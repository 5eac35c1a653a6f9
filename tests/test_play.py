"""`make play` runs, and its breakpoints are lines of the functions that it names."""

import linecache
import re
from pathlib import Path

import pytest

from tests.play import ROOT, place, play


def test_the_chain_names_breakpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert play(tmp_path) < 1e-2
    said = capsys.readouterr().out
    stages = re.findall(r"^(\S.*), \d+\.\d s: ", said, re.MULTILINE)
    assert stages == ["model", "masks", "plan", "graph", "hybrid ONNX", "ONNX Runtime", "text"]
    places = re.findall(r"^    break (\S+):(\d+)  (\S+)$", said, re.MULTILINE)
    assert len(places) > len(stages) and all((ROOT / file).is_file() for file, _, _ in places)


def test_a_breakpoint_is_in_the_body() -> None:
    file, _, line = place(place).partition("  ")[0].partition(":")
    assert (
        linecache.getline(str(ROOT / file), int(line)).strip() == "code = inspect.unwrap(function).__code__"
    )
