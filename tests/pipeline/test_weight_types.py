"""Whole builds with int8 and int4 weights, on ONNX Runtime."""

import json

import pytest
import torch

from patch_compile.inspection.onnx_graph import inspect_onnx
from tests.builds import build, check_out


@pytest.mark.parametrize(
    ("weights", "types", "checkpoint"),
    [
        ("int8", {"int8"}, torch.bfloat16),
        ("int4,v_proj=float16,down_proj=int8", {"int4", "int8", "float16"}, torch.float32),
    ],
)
def test_integer_builds_compute_as_transformers(settings, make_model, weights, types, checkpoint):
    """The proof compares the graph in float16 with the values of the grids, which a checkpoint in bfloat16 holds less
    exactly."""
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=2, dtype=checkpoint)
    report = build({**settings, "model": model, "weights": weights, "kinds": "2:4,8:16"})
    out = settings["out"]
    check_out(out, report, "model/model.safetensors")
    rows = json.loads((out / "plan.json").read_text())["linears"]
    assert {row["weights"] for row in rows} == types
    assert {row["lowering"] for row in rows if row["weights"] != "float16"} == {"plugin"}
    found = inspect_onnx(out / "onnx/model.onnx")
    assert not found.faults
    assert {row["weights"] for row in found.rows} == types
    assert report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    assert report["agreement"]["tolerance"]["origin"] == "roundings"


def test_w8a8_builds_compute_as_transformers(settings, make_model):
    """Inputs that differ by a rounding of 16 bits may become other integers, so the measured tolerance may count."""
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=2, dtype=torch.bfloat16)
    weights = "w8a8,v_proj=int8,o_proj=float16"
    report = build({**settings, "model": model, "weights": weights, "kinds": "auto"})
    out = settings["out"]
    check_out(out, report, "model/model.safetensors")
    rows = {row["name"]: row for row in json.loads((out / "plan.json").read_text())["linears"]}
    assert {row["weights"] for row in rows.values()} == {"w8a8", "int8", "float16"}
    rounded = sorted(name for name, row in rows.items() if row["weights"] == "w8a8")
    assert json.loads((out / "model/config.json").read_text())["rounded_inputs"]["targets"] == rounded
    found = inspect_onnx(out / "onnx/model.onnx")
    assert not found.faults and {row["weights"] for row in found.rows} == {"w8a8", "int8", "float16"}
    assert report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
