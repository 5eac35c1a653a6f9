"""TensorRT-RTX builds the exported graphs of all architectures ahead of time, with their profiles, without a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import build_to, plugin, rtx  # noqa: F401 - fixtures
from tests.onnx_export.tiny import ENCODERS, Exports

pytestmark = pytest.mark.rtx


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("qwen2-mixed", {}),
        ("llama", {"dtype": "bfloat16", "logits": "last"}),
        ("gemma3_text", {"opset": 20}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("phi3", {}),
        ("gpt2", {}),
        ("opt", {}),
        ("gpt_neox", {}),
        ("bert", {}),
        ("roberta", {}),
        ("mpnet", {}),
    ],
)
def test_the_graph_builds(
    variant: str,
    options: dict[str, Any],
    exports: Exports,
    build_to: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    path = exports.write(tmp_path / "model.onnx", variant, **options)
    report = build_to(path, tmp_path / "model.engine", plugin=None)
    assert report.bytes > 100_000 and len(report.profiles) == (1 if variant in ENCODERS else 2)
