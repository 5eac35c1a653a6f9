"""Graphs whose activations are `[tokens, hidden]`, all sequences one below the other, become engines like others."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import patch_compile
from patch_compile.engine.plan_program import PLUGIN, read_programs
from patch_compile.engine.profiles import profiles_from_onnx
from tests.sources.exported_graph.graphs import Exporter, saved, weights_of
from tests.sources.exported_graph.test_compile import HIDDEN, SIZES, masks_of

pytestmark = pytest.mark.rtx


def test_an_engine_takes_any_number_of_ragged_tokens(build_to, make_model, tmp_path):
    model = make_model(**SIZES)
    file = model / "model.safetensors"
    save_file({name: w * np.float32(0.1) for name, w in load_file(file).items()}, file, {"format": "pt"})
    masks = masks_of(model, tmp_path / "masks.safetensors")
    graph = saved(Exporter(weights_of(model)).model(HIDDEN, 2), tmp_path / "exported.onnx")
    onnx = patch_compile.compile(model, tmp_path / "out", mask=masks, graph=graph, lowering="plugin").onnx
    profiles = profiles_from_onnx(onnx, f"x:1x{HIDDEN}", f"x:64x{HIDDEN}", f"x:2048x{HIDDEN}")
    engine = tmp_path / "engine" / "model.engine"
    report = build_to(onnx, engine, profiles=profiles)
    (program,) = read_programs(engine)
    assert report.patch_linears == 8 == sum(layer.kind == PLUGIN for layer in program.layers)
