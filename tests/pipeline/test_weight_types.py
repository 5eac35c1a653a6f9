"""Whole builds with quantised weights, on ONNX Runtime."""

import json

import pytest
import torch

from patch_compile.inspection.onnx_graph import inspect_onnx
from tests.builds import build, check_out


@pytest.mark.parametrize(
    ("weights", "types", "checkpoint", "kinds"),
    [
        ("int8", {"int8"}, torch.bfloat16, "2:4,8:16"),
        ("int4,v_proj=float16,down_proj=int8", {"int4", "int8", "float16"}, torch.float32, "2:4,8:16"),
        ("w8a8,v_proj=int8,o_proj=float16", {"w8a8", "int8", "float16"}, torch.bfloat16, "auto"),
    ],
)
def test_quantised_builds_compute_as_transformers(settings, make_model, weights, types, checkpoint, kinds):
    """The proof compares the graph in float16 with the values of the grids, which a checkpoint in bfloat16 holds less
    exactly. Inputs of w8a8 may become other integers by a rounding of 16 bits: the measured tolerance may count then."""
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=2, dtype=checkpoint)
    report = build({**settings, "model": model, "weights": weights, "kinds": kinds})
    out, tolerance = settings["out"], report["agreement"]["tolerance"]
    check_out(out, report, "model/model.safetensors")
    rows = {row["name"]: row for row in json.loads((out / "plan.json").read_text())["linears"]}
    assert {row["weights"] for row in rows.values()} == types
    assert {row["lowering"] for row in rows.values() if row["weights"] != "float16"} == {"plugin"}
    inspection = inspect_onnx(out / "onnx/model.onnx")
    assert not inspection.faults and {row["weights"] for row in inspection.rows} == types
    assert report["agreement"]["error"] <= tolerance["share"]
    rounded = sorted(name for name, row in rows.items() if row["weights"] == "w8a8")
    if rounded:
        assert json.loads((out / "model/config.json").read_text())["rounded_inputs"]["targets"] == rounded
    else:
        assert tolerance["origin"] == "roundings"
