"""PATCH_COMPILE_DEBUG tells on stderr what a command does, and leaves stdout as it is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patch_compile.debug import difference_lines, tell, tensor_words
from tests.commands import flags_of, run, run_here
from tests.refusals import refusal


def test_a_build_tells_stages_linears_graphs_and_tensors(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATCH_COMPILE_DEBUG", "4")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = run_here("build", settings.pop("model"), *flags_of(settings | {"method": "magnitude"}), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(settings["out"] / "report.json")
    told = [line for line in done.stderr.splitlines() if line.startswith("debug ")]
    for rule in (
        r"masks took \d+\.\d\d s",
        r"patch-compile --debug build \S+ .* begins",
        r"model\.layers\.0\.\S+ \[\d+, \d+\] in tiles of 64x64: weights \d+ dense, \d+ 2:4",
        r"model\.layers\.0\.\S+ \[\d+, \d+\], float16, slabs (\d+ dense, )?\d+ 2:4: plugin",
        r"\S+\.onnx: logits float\d\d \[1, 24, \d+\] -\d\S* … \d\S*",
    ):
        assert any(re.search(rule, line) for line in told), (rule, "\n".join(told))
    folders = [Path(line.split(" is in ")[1]) for line in told if "the graph after each pass" in line]
    (passes,) = (sorted(file.name for file in folder.iterdir()) for folder in folders)
    assert passes[:2] == ["00_start.txt", "01_ResolveCastLikePass.txt"]
    assert [name for name in passes if "PackLinears" in name]


@pytest.mark.parametrize("level", range(1, 5))
def test_a_level_tells_what_lower_ones_tell(
    level: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATCH_COMPILE_DEBUG", str(level))
    for about in range(1, 5):
        tell(about, (f"about {number}\x1b" for number in [about]))
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in told] == [rf"about {n}\x1b" for n in range(1, level + 1)]


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCH_COMPILE_DEBUG", "5")
    done = run("doctor")
    refusal(done)
    assert done.stdout == ""


def test_tensors_are_told_by_type_shape_and_range() -> None:
    assert tensor_words("y", np.float16([[1.5, np.nan, -2]])) == "y float16 [1, 3] -2 … 1.5"
    assert tensor_words("empty", np.zeros((0, 2), np.int64)) == "empty int64 [0, 2]"


def test_the_first_differing_element_is_named() -> None:
    a = np.float32([[1, np.nan], [3, 4]])
    assert list(difference_lines("y", a, a.copy())) == ["y is the same in the reference"]
    (line,) = difference_lines("y", a, np.float32([[1, np.nan], [5, 6]]))
    assert line == "y differs in 2 of 4 elements, first at [1, 0]: 3.0 instead of 5.0"
    (line,) = difference_lines("y", a, a[0])
    assert line == "y is [2, 2], and [2] in the reference"
