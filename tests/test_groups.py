"""Groups of tests that run in one process."""

from pathlib import Path
from typing import Any

import pytest

from tests import conftest
from tests.groups import GROUPS, group_of


def test_every_group_has_tests() -> None:
    for beginning in (one for beginnings in GROUPS.values() for one in beginnings):
        assert (Path(__file__).parents[1] / beginning).exists()


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("tests/runtime/test_generator.py::test_a[1]", "runtime"),
        ("tests/plugins/tensorrt/test_index.py::test_a", "dense-path"),
        ("tests/onnx_export/test_model.py::test_a[llama-tied-yarn]", "export llama-tied-yarn"),
        ("tests/onnx_export/test_rtx.py::test_a[llama-options1]", "export llama"),
        ("tests/onnx_export/test_mask.py::test_a[9-0-mistral-window-6]", "export mistral-window"),
        ("tests/onnx_export/test_encoders.py::test_a[xlm-roberta-options1]", "export xlm-roberta"),
        ("tests/onnx_export/test_model.py::test_interface", "export llama"),
        ("tests/onnx_export/test_smollm2.py::test_a", "tests/onnx_export/test_smollm2.py::test_a"),
        ("tests/pipeline/test_build.py::test_a[llama]", "tests/pipeline/test_build.py::test_a[llama]"),
    ],
)
def test_a_group_is_known_by_the_beginning_or_by_the_exported_model(test: str, group: str) -> None:
    assert group_of(test) == group


def test_xdist_gets_the_scheduler_from_conftest() -> None:
    class Config:
        def __init__(self, dist: str) -> None:
            self.values = {"dist": dist, "tx": ["popen", "popen"]}

        def getvalue(self, name: str) -> Any:
            return self.values[name]

    scheduler: Any = conftest.pytest_xdist_make_scheduler(Config("loadgroup"), None)
    assert scheduler.numnodes == 2 and scheduler._split_scope("tests/runtime/test_a.py::test_a") == "runtime"
    assert conftest.pytest_xdist_make_scheduler(Config("load"), None) is None
