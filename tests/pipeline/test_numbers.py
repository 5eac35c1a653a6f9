"""Builds models whose numbers are at an edge: the result is right, or a sentence refuses the model before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from masklearn.model.checkpoint import Checkpoint
from masklearn.quality.range import float16_fit
from patch_compile.sources.checkpoint.source import CheckpointSource
from tests.builds import build
from tests.refusals import refused


def change(model: Path, end: str, new: Any) -> None:
    """Replace the weights whose name ends so by `new(weight)`."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    changed = {name: new(one).contiguous() for name, one in tensors.items() if name.endswith(end)}
    assert changed
    save_file(tensors | changed, file, {"format": "pt"})


def by_magnitude(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of a method that reads no text, judged on the text of the others."""
    return settings | {"method": "magnitude", "calib": None, "eval_text": settings["calib"]}


def alternating(weight: torch.Tensor) -> torch.Tensor:
    """Each row is a constant, so that the rounding of its products has one direction."""
    rows = torch.linspace(-0.3, 0.3, len(weight))[:, None]
    return rows.expand_as(weight)


def tiny(weight: torch.Tensor) -> torch.Tensor:
    weight[0, :5] = torch.tensor([2e-8, -1e-8, 0.0, -0.0, 1e-7])  # the smallest number of float16 is 6e-8
    return weight


EDGES = {
    "rows of equal weights": {"proj.weight": alternating},
    "zeros, equal and tiny weights": {
        "gate_proj.weight": torch.zeros_like,
        "up_proj.weight": lambda w: torch.full_like(w, 0.1),
        "layers.0.self_attn.q_proj.weight": tiny,
        "k_proj.weight": lambda w: w * -0.0,
        "v_proj.weight": lambda w: torch.full_like(w, 6e-8),
    },
}


def test_amplified_roundings_widen_the_tolerance(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(settings["model"], "proj.weight", alternating)
    monkeypatch.setattr("patch_compile.sources.rounding.DEVIATIONS", 1e-6)  # no model keeps this tolerance
    agreement = build(by_magnitude(settings))["agreement"]
    assert agreement["tolerance"]["origin"] == "sixteen-bits"
    assert 0 < agreement["error"] <= agreement["tolerance"]["share"] < 0.05


@pytest.mark.parametrize("edge", EDGES)
def test_edges_of_the_numbers_build_right(settings: dict[str, Any], edge: str) -> None:
    for end, new in EDGES[edge].items():
        change(settings["model"], end, new)
    report = build(by_magnitude(settings))
    error = report["agreement"]["error"]
    assert np.isfinite(error) and error <= report["agreement"]["tolerance"]["share"]
    assert all(np.isfinite(report["perplexity"][name]) for name in ("dense", "pruned"))
    said = any("float16: 2 weights in 1 linears are too small" in note for note in report["notes"])
    assert said == (tiny in EDGES[edge].values())


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_activations_beyond_float16_are_told_before_any_work(
    settings: dict[str, Any], make_model: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(CheckpointSource, "learn", None)  # must not be called
    end = {"llama": "mlp.down_proj.weight", "bert": "intermediate.dense.weight"}[kind]
    model = make_model(kind, hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    change(model, end, lambda w: w * 20000.0)
    with refused():
        build(settings | {"model": model})
    assert not settings["out"].exists()
    fit = float16_fit(Checkpoint.open(model), [1, 2, 3])
    # The first block overflows.
    assert fit.overflow is not None and "0" in fit.overflow[0] and fit.overflow[1] > 65504


def test_weights_that_float16_makes_zero_are_counted(make_model: Any) -> None:
    model = make_model(num_hidden_layers=1)
    assert float16_fit(Checkpoint.open(model), [1, 2, 3]).overflow is None
    change(model, "q_proj.weight", tiny)
    fit = float16_fit(Checkpoint.open(model), [1, 2, 3])
    assert (fit.vanished, fit.linears) == (2, 1) and fit.largest == pytest.approx(2e-8)
