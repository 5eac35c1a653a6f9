"""Each test is quick or not, and shares a process with tests that share its fixtures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.groups import GROUPS, group_of, longest_first
from tests.parts import is_quick, slow_files

ROOT = Path(__file__).parents[1]


def item(file: str, *marks: str) -> Any:
    return SimpleNamespace(path=ROOT / file, get_closest_marker=lambda name: name if name in marks else None)


def test_slow_files_and_groups_exist() -> None:
    assert "tests/ptx/test_kernels.py" in slow_files() and "tests/test_parts.py" not in slow_files()
    places = [*slow_files(), *(one for beginnings in GROUPS.values() for one in beginnings)]
    assert [place for place in places if not (ROOT / place).exists()] == [] and "runtime" in longest_first()


def test_quick_are_quick_files_and_marked_tests() -> None:
    new, slow = item("tests/test_new.py"), item("tests/ptx/test_kernels.py")
    marked, swept = item("tests/ptx/test_kernels.py", "quick"), item("tests/test_new.py", "sweep")
    assert [*map(is_quick, (new, slow, marked, swept))] == [True, False, True, False]


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("tests/runtime/test_generator.py::test_a[1]", "runtime"),
        ("tests/onnx_export/test_model.py::test_a[llama-tied-yarn]", "export llama-tied-yarn"),
        ("tests/onnx_export/test_rtx.py::test_a[llama-options1]", "export llama"),
        ("tests/onnx_export/test_model.py::test_interface", "export llama"),
        ("tests/pipeline/test_build.py::test_a[llama]", "tests/pipeline/test_build.py::test_a[llama]"),
    ],
)
def test_groups_are_folders_or_exported_models(test: str, group: str) -> None:
    assert group_of(test) == group
