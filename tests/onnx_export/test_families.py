"""Graphs of decoders without a row, and of mixtures of experts, compute what transformers computes: prefill and decode.

`make test-full` runs the families that differ most; `make mutate` runs all.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.onnx_export import export_model
from patch_compile.onnx_export.model import check_traceable
from patch_compile.onnx_io.write import bind_weights, write_onnx
from patch_compile.passes import cleanup_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.verification.choices import following
from tests.families import FAMILIES, IN_EVERY_RUN, MIXTURES, UNEXPORTABLE, write_family
from tests.onnx_export.test_model import U16, run_greedily
from tests.onnx_export.tiny import OrtDecoder, Reference, tolerance
from tests.refusals import refused


@pytest.mark.parametrize("name", IN_EVERY_RUN)
def test_graphs_of_families_that_differ_most(name: str, tmp_path: Path) -> None:
    path = write_family(tmp_path / "model", name, num_hidden_layers=2)
    check_logits(path, tmp_path, layers=2, mixture=name in MIXTURES)


@pytest.mark.families
@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *MIXTURES) if name not in UNEXPORTABLE])
def test_logits_equal_those_of_transformers(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Four layers: in a model of one kind of layers the fourth is repeated, not traced."""
    check_logits(write_family(tmp_path / "model", name), tmp_path, layers=4, mixture=name in MIXTURES)
    assert "tracing all" not in caplog.text


def check_logits(path: Path, tmp_path: Path, layers: int, *, mixture: bool) -> None:
    checkpoint = Checkpoint.open(path)
    model = run_passes(export_model(path, dtype="float16"), cleanup_passes())
    assert set(covered_linears_of(checkpoint).linears) <= set(lowerable_linears(model))
    bind_weights(model, checkpoint, ir.DataType.FLOAT16)
    assert bool(show_choices(model)) == mixture
    write_onnx(model, tmp_path / "model.onnx")
    decoder, reference = OrtDecoder(tmp_path / "model.onnx"), Reference(path)
    rounding = tolerance(np.ones(1), layers, U16)
    for pads in ([0], [0, 2, 5]):
        ids, logits = run_greedily(decoder, pads, steps=6)
        for row, pad in enumerate(pads):
            with following(choices_of(decoder, len(pads), row, pad)) as followed:
                expected = reference.logits(ids[row, pad:])
            assert np.abs(logits[row, pad:] - expected).max() <= tolerance(expected, layers, U16)
            assert followed.lost <= rounding


def show_choices(model: ir.Model) -> int:
    """Make the indices of every TopK outputs of the graph, in the order of the layers. Returns their number."""
    chosen = [node.outputs[1] for node in model.graph if node.op_type == "TopK"]
    model.graph.outputs.extend(chosen)
    return len(chosen)


def choices_of(decoder: OrtDecoder, rows: int, row: int, pad: int) -> dict[str, np.ndarray]:
    """Returns the indices [tokens, ..., k] of the tokens of one row behind its padding, for each TopK of the graph."""
    steps = [[one.reshape(rows, -1, *one.shape[1:])[row] for one in step] for step in decoder.others]
    return {f"{number}": np.concatenate(one)[pad:] for number, one in enumerate(zip(*steps, strict=True))}


# tests/pipeline/test_prepare.py tries deepseek_v2 in every run.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.families] * (name != "gpt_neo")) for name in UNEXPORTABLE]
)
def test_unexportable_models_are_refused_before_work(name: str, tmp_path: Path) -> None:
    path = write_family(tmp_path / "model", name)
    with refused():
        check_traceable(path)
