"""Each test is in one of the two parts, and the slow files are tests that exist."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.parts import PARTS, of_part, slow_files

ROOT = Path(__file__).parents[1]


def item(file: str, *marks: str) -> Any:
    return SimpleNamespace(path=ROOT / file, get_closest_marker=lambda name: name if name in marks else None)


def test_slow_files_are_known_by_their_seconds() -> None:
    assert "tests/ptx/test_kernels.py" in slow_files() and "tests/test_parts.py" not in slow_files()
    assert [file for file in slow_files() if not (ROOT / file).exists()] == []


def test_a_test_is_in_one_part() -> None:
    new, slow = item("tests/test_new.py"), item("tests/ptx/test_kernels.py")
    marked, swept = item("tests/ptx/test_kernels.py", "quick"), item("tests/test_new.py", "sweep")
    assert of_part("quick", (new, slow, marked, swept)) == ([new, marked], [slow, swept])
    assert of_part("rest", (new, slow, marked, swept)) == ([slow, swept], [new, marked])
    assert set(PARTS) == {"quick", "rest"}
