from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from masklearn.model.checkpoint import Checkpoint
from patch_compile.onnx_export import export_model
from patch_compile.onnx_io.write import bind_weights, write_onnx
from patch_compile.passes import cleanup_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from tests.onnx_export.tiny import OrtDecoder, Reference, tolerance

MODEL = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m"
pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not (MODEL / "config.json").exists(), reason=f"the sample model is not at {MODEL}"),
]


def test_smollm2_runs_as_in_transformers(tmp_path: Path) -> None:
    model = run_passes(export_model(MODEL, dtype="float16"), cleanup_passes())
    assert len(lowerable_linears(model)) == 30 * 7  # the head reads the weight of the embedding
    bind_weights(model, Checkpoint.open(MODEL), ir.DataType.FLOAT16)
    write_onnx(model, tmp_path / "model.onnx")
    decoder, reference = OrtDecoder(tmp_path / "model.onnx"), Reference(MODEL)
    ids = np.random.default_rng(0).integers(100, 49000, (1, 24))
    logits = decoder.start(ids[:, :20], np.ones((1, 20), np.int64))
    steps = [decoder.step(ids[:, i : i + 1]) for i in range(20, 24)]
    together = np.concatenate([logits, *steps], axis=1)[0]
    expected = reference.logits(ids[0])
    assert np.abs(together - expected).max() <= tolerance(expected, 30, 2.0**-11)
    assert (together.argmax(-1) == expected.argmax(-1)).all()
