"""The dense engine that is predicted: TensorRT-RTX merges linears of one input, and SiLU·mul is a kernel of its own. GELU is
part of the product before it."""

import re

import pytest

from masklearn.model.checkpoint import Checkpoint
from patch_compile.passes.write import export_graph, write_dense
from tests.onnx_export.tiny import save_tiny

pytestmark = pytest.mark.rtx
LAYERS = 2
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}
# Kernels of a program as its text has them: products by the names of their nodes, the others by their operations.
KERNEL = re.compile(rb'^\s*(?:fully_connected|function|runtime_fusion)=\{ name=("[^"]*"|\S+)', re.MULTILINE)


def kernels_of(build_to, tmp_path, model, **sizes):
    """Returns the names of the kernels of a tiny model's engine, and the number of its profiles."""
    source = save_tiny(model, tmp_path / "model", num_hidden_layers=LAYERS, **(SIZES | sizes))
    path, engine = tmp_path / "dense.onnx", tmp_path / "dense.engine"
    write_dense(export_graph(source, dtype="float16", opset=23), Checkpoint.open(source), path, "float16")
    report = build_to(path, engine, plugin=None)
    return [name.decode().strip('"') for name in KERNEL.findall(engine.read_bytes())], len(report.profiles)


def test_dense_decoders_have_the_predicted_kernels(build_to, tmp_path):
    kernels, profiles = kernels_of(build_to, tmp_path, "llama", num_key_value_heads=2)
    for block in range(LAYERS):
        for parts in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            merged = [
                name
                for name in kernels
                if f"layers.{block}." in name and all(f"{part}/" in name for part in parts)
            ]
            assert len(merged) == profiles, (block, parts)
    gating = [name for name in kernels if name.endswith("SiluMul")]
    assert len(gating) == LAYERS * profiles


def test_dense_encoders_have_the_predicted_kernels(build_to, tmp_path):
    kernels, profiles = kernels_of(build_to, tmp_path, "bert")
    assert profiles == 1
    for block in range(LAYERS):
        parts = ("query", "key", "value")
        assert (
            sum(all(f"layer.{block}.attention.self.{part}/" in name for part in parts) for name in kernels)
            == 1
        )
    with_erf = [name for name in kernels if "Erf" in name]
    assert len(with_erf) == LAYERS and all(name.startswith("__myl_Fc") for name in with_erf)
