"""Graphs that tests keep on the disk are the traced graphs."""

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from patch_compile.onnx_export import export_model, trace
from tests.conftest import ModelMaker
from tests.traces import Traces


def test_kept_graphs_are_the_traced_graphs(
    make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()

    def exported(real: Any) -> bytes:
        monkeypatch.setattr(trace, "trace_model", Traces(real, kept))
        return ir.to_proto(export_model(model, dtype="float16")).SerializeToString()

    model, real = make_model(num_hidden_layers=1), trace.trace_model
    traced = exported(real)
    assert len(list(kept.iterdir())) == 1
    assert exported(lambda *_, **__: pytest.fail("traced again")) == traced
