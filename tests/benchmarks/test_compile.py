import sys
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest

from benchmarks import checkpoints, compile
from benchmarks.measured_command import watched
from benchmarks.page_part import renewed
from tests.refusals import refused

TINY = {
    "hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "num_hidden_layers": 2,
}  # fmt: skip
PAGE = "before\n<!-- compile: begin -->\nold\n<!-- compile: end -->\nafter\n"


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    config = checkpoints.SHAPES["llama-2-7b"] | TINY
    monkeypatch.setitem(checkpoints.SHAPES, "llama-2-7b", config)
    return config


def test_it_compiles_builds_and_writes_the_page(
    tmp_path: Path,
    shapes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every figure is measured, though a tiny checkpoint's figures mean nothing."""
    page, figures = tmp_path / "page.md", list[compile.Measurement]()
    page.write_text(PAGE)
    original = compile.page_part
    monkeypatch.setattr(compile, "page_part", lambda *a: (figures.extend(a[2]), original(*a))[1])
    command = ["--engine", "--page", str(page), "--scratch", str(tmp_path / "s")]
    assert compile.main(command) == 1
    assert {f.what for f in figures if not f.met} <= {
        "the same over `cp`",
        "only packing and checking, from memory",
        "export",
    }
    assert all(f.value > 0 for f in figures if f.what != "other files left by it")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert all(f"| {f.what} |" in text for f in figures)
    assert text.count("**missed**") == sum(not f.met for f in figures)
    assert "peak anonymous memory" in capsys.readouterr().out
    assert not list((tmp_path / "s").iterdir())


def test_a_build_is_measured_to_its_proof(
    tmp_path: Path, shapes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("compile:", "proof:"))
    shapes["vocab_size"] = 260  # bytes, and the end
    command = ["--proof", "--blocks", "1", "--page", str(page), "--scratch", str(tmp_path / "s")]
    assert compile.main(command) == 0
    assert "| proof: dense reference |" in page.read_text() and "1 blocks" in page.read_text()
    assert "peak anonymous memory" in capsys.readouterr().out
    assert not list((tmp_path / "s").iterdir())


def test_a_page_without_marks_is_refused() -> None:
    with refused(ValueError):
        renewed("nothing here", "compile", "part")


def test_limits_hold_from_both_sides() -> None:
    most = compile.Measurement("seconds", 4.0, "s", 4.0)
    assert most.met and not replace(most, value=4.1).met and "≤ 4 s" in most.row()
    least = replace(most, least=True)
    assert least.met and not replace(least, value=3.9).met and "**missed**" in replace(least, value=3.9).row()


def test_memory_of_a_process_is_seen() -> None:
    """300 MB of written memory count as anonymous, and the output comes back whole."""
    code = "import time; held = bytearray(b'x') * 300_000_000; time.sleep(1); print('y' * 200_000)"
    run = watched([sys.executable, "-c", code])
    assert 0.27 < run.peak_anonymous_gib <= run.peak_gib < 0.6
    assert run.stdout == "y" * 200_000 + "\n" and run.seconds > 1


def test_commands_can_be_limited() -> None:
    with pytest.raises(CalledProcessError):
        watched([sys.executable, "-c", "bytearray(300_000_000)"], most_gib=0.2)
    assert watched([sys.executable, "-c", "print(bytearray(3))"], most_gib=0.2).stdout
