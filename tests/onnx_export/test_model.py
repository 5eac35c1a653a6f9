import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.onnx_export import export_model
from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
from patch_compile.onnx_io.write import bind_weights, write_onnx
from patch_compile.passes import cleanup_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from tests.onnx_export.tiny import LAYERS, VARIANTS, Exports, OrtDecoder, Reference, save_gemma3, tolerance
from tests.refusals import refused

U16 = 2.0**-11
LAST = LAYERS - 1


def padded_prompts(pads: list[int], sequence: int = 11) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(7).integers(3, 128, (len(pads), sequence))
    mask = np.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
        ids[row, :pad] = 1
    return ids, mask


def worst_error(
    decoder: OrtDecoder, reference: Reference, pads: list[int], steps: int
) -> tuple[float, float]:
    """Prefill left-padded rows and decode greedily; returns the worst error over real positions and the logits' scale."""
    ids, together = run_greedily(decoder, pads, steps)
    expected = [reference.logits(ids[row, pad:]) for row, pad in enumerate(pads)]
    error = max(float(np.abs(together[row, pad:] - expected[row]).max()) for row, pad in enumerate(pads))
    return error, max(float(np.abs(e).max()) for e in expected)


def run_greedily(decoder: OrtDecoder, pads: list[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Prefill left-padded rows and decode greedily; returns ids [rows, positions] and the logits of all positions."""
    ids, mask = padded_prompts(pads)
    logits = [decoder.start(ids, mask)]
    for _ in range(steps):
        token = logits[-1][:, -1:].argmax(-1)
        ids = np.concatenate([ids, token], axis=1)
        logits.append(decoder.step(token))
    return ids, np.concatenate(logits, axis=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(variant: str, exports: Exports, tmp_path: Path) -> None:
    decoder = OrtDecoder(exports.write(tmp_path / "model.onnx", variant))
    reference = Reference(exports.model_dir(variant))
    for pads in ([0], [0, 2, 5]):
        error, scale = worst_error(decoder, reference, pads, steps=8)
        assert error <= tolerance(np.array(scale), LAYERS, U16)


@pytest.mark.parametrize("variant", ["gemma3_text", "gpt_neox"])
def test_logits_of_plain_ops(variant: str, exports: Exports, tmp_path: Path) -> None:
    path = exports.write(tmp_path / "model.onnx", variant, opset=20)
    proto = onnx.load(str(path), load_external_data=False)
    assert {o.domain: o.version for o in proto.opset_import} == {"": 20}
    assert not {"Attention", "RMSNormalization", "RotaryEmbedding"} & {n.op_type for n in proto.graph.node}
    error, scale = worst_error(OrtDecoder(path), Reference(exports.model_dir(variant)), [0, 2, 5], steps=4)
    assert error <= tolerance(np.array(scale), LAYERS, U16)


@pytest.mark.parametrize("variant", ["gemma2"])
def test_scores_are_capped_before_the_mask_hides_any(variant: str, exports: Exports) -> None:
    """Attention is not used, because some runtimes cap after the mask (onnx/onnx#7865)."""
    ops = [node.op_type for node in exports.graph(variant).graph]
    assert "Attention" not in ops
    assert ops.count("Tanh") == LAYERS + 1  # the logits are capped too


def test_the_tolerance_tells_a_wrong_mask(exports: Exports, tmp_path: Path) -> None:
    """Reading the padding as text must fail the comparison of the tests above."""
    decoder = OrtDecoder(exports.write(tmp_path / "model.onnx", "llama"))
    ids, mask = padded_prompts([5])
    expected = Reference(exports.model_dir("llama")).logits(ids[0, 5:])
    limit = tolerance(expected, LAYERS, U16)
    assert np.abs(decoder.start(ids, mask)[0, 5:] - expected).max() <= limit
    assert np.abs(decoder.start(ids, np.ones_like(mask))[0, 5:] - expected).max() > 3 * limit


def test_bfloat16_graphs_round_as_bfloat16(exports: Exports, tmp_path: Path) -> None:
    model = exports.bound("llama", dtype="bfloat16", logits="last")
    assert {v.dtype for v in (*model.graph.inputs[3:], *model.graph.outputs)} == {ir.DataType.BFLOAT16}
    write_onnx(EmulateBfloat16Pass()(model).model, tmp_path / "model.onnx")
    ids, mask = padded_prompts([0, 4])
    logits = OrtDecoder(tmp_path / "model.onnx").start(ids, mask)
    assert logits.shape == (2, 1, 128)
    reference = Reference(exports.model_dir("llama"), torch.bfloat16)
    expected = np.stack([reference.logits(ids[0])[-1:], reference.logits(ids[1, 4:])[-1:]])
    error = np.abs(logits - expected).max()
    assert tolerance(expected, LAYERS, U16) / 4 < error <= tolerance(expected, LAYERS, 2.0**-8)


@pytest.mark.parametrize(
    "variant",
    ["llama", "llama-tied-yarn", "qwen2-mixed", "qwen3", "gemma3_text", "opt", "gpt_neox", "bert"],
)
def test_weights_keep_names_and_shapes(variant: str, exports: Exports) -> None:
    model = exports.graph(variant)
    with safe_open(exports.model_dir(variant) / "model.safetensors", "np") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    weightless = {v.name: v for v in model.graph.initializers.values() if v.const_value is None}
    assert {name: v.shape.numpy() for name, v in weightless.items()} == saved
    assert {v.dtype for v in weightless.values()} == {ir.DataType.FLOAT16}
    held = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    assert sum(tensor.nbytes for tensor in held) < 1024


@pytest.mark.parametrize("variant", ["gpt2"])
def test_weights_of_conv1d_are_turned_round(variant: str, exports: Exports) -> None:
    """GPT-2 stores [K, N], for square weights too, whose shape does not show it."""
    checkpoint = Checkpoint.open(exports.model_dir(variant))
    model = exports.bound(variant)
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        weight = model.graph.initializers[f"transformer.h.{LAST}.{name}.weight"]
        assert weight.const_value is not None
        stored = checkpoint.read(f"transformer.h.{LAST}.{name}.weight").astype(np.float16)
        assert np.array_equal(weight.const_value.numpy(), stored.T)
    embedding = model.graph.initializers["transformer.wte.weight"].const_value
    assert embedding is not None
    assert np.array_equal(embedding.numpy(), checkpoint.read("transformer.wte.weight").astype(np.float16))


def test_names_are_those_that_the_checkpoint_has(exports: Exports, tmp_path: Path) -> None:
    """GPT-2's authors omit the prefix, and the head is tied."""
    AutoModelForCausalLM.from_pretrained(exports.model_dir("gpt2")).transformer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    named = export_model(tmp_path, dtype="float16").graph.initializers
    assert {"wte.weight", f"h.{LAST}.mlp.c_proj.weight"} <= set(named)
    assert not [name for name in named if name.startswith(("transformer.", "lm_head"))]


def test_text_parts_of_multimodal_models_export(tmp_path: Path) -> None:
    path = save_gemma3(tmp_path / "model")
    model = run_passes(export_model(path, dtype="float16"), cleanup_passes())
    checkpoint = Checkpoint.open(path)
    linears = lowerable_linears(model)
    assert set(covered_linears_of(checkpoint).linears) <= set(linears)
    assert not [name for name in model.graph.initializers if "vision" in name]
    bind_weights(model, checkpoint, ir.DataType.FLOAT16)
    write_onnx(model, tmp_path / "model.onnx")
    decoder, reference = OrtDecoder(tmp_path / "model.onnx"), Reference(path)
    error, scale = worst_error(decoder, reference, [0, 2], steps=2)
    assert error <= tolerance(np.array(scale), LAYERS, U16)


def test_interface(exports: Exports) -> None:
    model = exports.graph("llama")
    past = [f"past_key_values.{i}.{part}" for i in range(LAYERS) for part in ("key", "value")]
    present = [f"present.{i}.{part}" for i in range(LAYERS) for part in ("key", "value")]
    assert [v.name for v in model.graph.inputs] == ["input_ids", "attention_mask", "position_ids", *past]
    assert [v.name for v in model.graph.outputs] == ["logits", *present]
    shapes = {v.name: str(v.shape) for v in (*model.graph.inputs, *model.graph.outputs)}
    assert shapes["input_ids"] == shapes["position_ids"] == "[batch,sequence]"
    assert shapes["attention_mask"] == "[batch,total]"
    assert shapes[f"past_key_values.{LAST}.value"] == "[batch,2,past,16]"
    assert shapes[f"present.{LAST}.value"] == "[batch,2,total,16]"
    assert shapes["logits"] == "[batch,sequence,128]"
    assert {v.dtype for v in model.graph.inputs[:3]} == {ir.DataType.INT64}


@pytest.mark.parametrize("opset", [17, 24])
def test_an_opset_that_does_not_fit_is_refused(opset: int, exports: Exports) -> None:
    with refused():
        export_model(exports.model_dir("llama"), dtype="float16", opset=opset)


def test_node_names_are_modules_without_paths(exports: Exports) -> None:
    model = exports.graph("llama")
    names = {node.name for node in model.graph}
    assert len(names) == len(model.graph)
    assert f"model.layers.{LAST}.mlp.down_proj/MatMul_0" in names
    assert f"model.layers.{LAST}.self_attn/Attention_0" in names
    assert b"modeling_llama" not in ir.to_proto(model).SerializeToString()
