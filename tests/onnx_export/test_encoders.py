"""Exported encoders give transformers' hidden states, for batches padded on either side."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from masklearn.model.checkpoint import Checkpoint
from patch_compile.onnx_export import export_model
from patch_compile.onnx_io.write import bind_weights, write_onnx
from patch_compile.passes import cleanup_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from tests.onnx_export.tiny import ENCODERS, Exports, tolerance

PADDING = 1  # the tiny models' padding token; RoBERTa needs 1, because its positions count all other tokens


def padded(pads: list[int], side: str, sequence: int = 11) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(7).integers(3, 128, (len(pads), sequence))
    mask = np.ones_like(ids)
    for row, pad in enumerate(pads):
        hidden = slice(0, pad) if side == "left" else slice(sequence - pad, sequence)
        mask[row, hidden], ids[row, hidden] = 0, PADDING
    kinds = (np.arange(sequence) > sequence // 2).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.tile(kinds, (len(pads), 1))}


MINILM = Path(__file__).parents[2] / ".cache" / "models" / "minilm"


class Encoder:
    """An exported encoder and transformers' model in fp32, whose weights are rounded like the graph's."""

    def __init__(self, path: Path, model_dir: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.model = AutoModel.from_pretrained(model_dir, dtype=torch.float32).eval()
        for parameter in self.model.parameters():
            parameter.data = parameter.data.half().float()

    def both(self, feed: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Each output by name, as computed by the graph and by transformers."""
        feed = {name: feed[name] for name in self.inputs}
        with torch.no_grad():
            reference = self.model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        made = dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        return {name: (value.astype(np.float32), reference[name].numpy()) for name, value in made.items()}


def check(encoder: Encoder) -> None:
    layers = encoder.model.config.num_hidden_layers
    for pads, side in (([0], "left"), ([0, 2, 5], "left"), ([0, 2, 5], "right")):
        feed = padded(pads, side)
        shown = feed["attention_mask"].astype(bool)
        for name, (made, expected) in encoder.both(feed).items():
            read = slice(None) if name == "pooler_output" else shown
            error = np.abs(made[read] - expected[read]).max()
            assert error <= tolerance(expected[read], layers, 2.0**-11), (name, pads, side)


@pytest.mark.parametrize(
    ("variant", "options"),
    [(variant, {}) for variant in ENCODERS] + [("bert", {"opset": 20})],
)
def test_hidden_states_equal_those_of_transformers(
    variant: str, options: dict[str, Any], exports: Exports, tmp_path: Path
) -> None:
    path = exports.write(tmp_path / "model.onnx", variant, **options)
    encoder = Encoder(path, exports.model_dir(variant))
    assert encoder.inputs == ["input_ids", "attention_mask"] + ["token_type_ids"] * (variant == "bert")
    assert encoder.outputs == ["last_hidden_state"] + ["pooler_output"] * (variant != "distilbert")
    check(encoder)
    ops = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
    assert ("Attention" in ops) is not (
        bool(options) or variant == "mpnet"
    )  # MPNet adds a bias to its scores


def test_missing_poolers_are_not_invented(exports: Exports, tmp_path: Path) -> None:
    """A checkpoint trained with another head has a prefix and no pooler."""
    AutoModelForMaskedLM.from_pretrained(exports.model_dir("bert")).save_pretrained(tmp_path)
    graph = export_model(tmp_path, dtype="float16").graph
    assert [value.name for value in graph.outputs] == ["last_hidden_state"]
    weights = [str(v.name) for v in graph.initializers.values() if v.const_value is None]
    assert weights
    assert all(name in Checkpoint.open(tmp_path) for name in weights)


@pytest.mark.model
@pytest.mark.skipif(not (MINILM / "config.json").exists(), reason=f"the sample model is not at {MINILM}")
def test_minilm_runs_as_in_transformers(tmp_path: Path) -> None:
    model = run_passes(export_model(MINILM, dtype="float16"), cleanup_passes())
    assert len(lowerable_linears(model)) == 6 * 6 + 1
    bind_weights(model, Checkpoint.open(MINILM), ir.DataType.FLOAT16)
    write_onnx(model, tmp_path / "model.onnx")
    check(Encoder(tmp_path / "model.onnx", MINILM))
