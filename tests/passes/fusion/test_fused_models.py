"""Fusions in exported models, which still compute the same."""

from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.checkpoint import Checkpoint
from patch_compile.onnx_export import export_model
from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
from patch_compile.onnx_io.write import write_onnx
from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes import cleanup_passes, lowering_passes, run_passes
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.write import write_hybrid
from patch_compile.planning.lowering import plan_linears
from tests.onnx_export.tiny import OrtDecoder, save_tiny, tolerance

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch warns about its own modules
Fused = dict[str, int]


def masks_of(model: ir.Model) -> dict[str, LinearMask]:
    """Masks of every linear of the blocks, whose first tile is 2:4 so that none stays dense."""
    outside = (
        "lm_head",
        "model.decoder.project_in",
        "model.decoder.project_out",
    )  # linears outside the blocks
    found = lowerable_linears(model).items()
    sites = {name: site for name, site in found if name not in outside}
    return {name: _mask(site.shape, seed) for seed, (name, site) in enumerate(sites.items())}


def _mask(shape: tuple[int, int], seed: int) -> LinearMask:
    rng = np.random.default_rng(seed)
    tiles = rng.random((-(-shape[0] // 64), -(-shape[1] // 64))) < 0.6
    tiles[0, 0] = True
    pattern = rng.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    return LinearMask.from_candidate((64, 64), tiles, pattern)


def overloads(path: Path) -> Fused:
    onnx.checker.check_model(str(path), full_check=True)
    nodes = onnx.load(path, load_external_data=False).graph.node
    return Counter(node.overload for node in nodes if node.op_type == "PatchLinear")


@pytest.mark.parametrize(
    ("variant", "changes", "options", "epilogues"),
    [
        ("llama", {"mlp_bias": True}, {}, {"": 1, "residual": 1, "bias_gated_silu": 1, "bias_residual": 1}),
        ("qwen2-mixed", {}, {"opset": 20}, {"bias": 1, "residual": 2, "gated_silu": 1}),
        ("gpt2", {}, {}, {"bias": 1, "bias_residual": 2, "bias_gelu_tanh": 1}),
        ("opt", {}, {}, {"bias": 2, "bias_residual": 2}),
    ],
)  # fmt: skip
def test_decoders(
    variant: str, changes: dict[str, Any], options: dict[str, Any], epilogues: Fused, tmp_path: Path
) -> None:
    model_dir = save_tiny(variant, tmp_path / "model", num_hidden_layers=1, **changes)
    graph = run_passes(export_model(model_dir, dtype="float16", **options), cleanup_passes())
    masks = masks_of(graph)
    checkpoint = Checkpoint.open(model_dir)
    ids = np.arange(12)[None] % 100
    logits = []
    for fuse in ((), tuple(FUSIONS)):
        path = tmp_path / f"{len(fuse)}.onnx"
        plan = write_hybrid(graph.clone(), checkpoint, masks, plan_linears(masks), path, "float16", fuse=fuse)
        logits.append(OrtDecoder(path).start(ids, np.ones_like(ids)))
    assert overloads(path) == epilogues
    assert {p.node.name for p in plan.values()} == {
        node.name for node in onnx.load(path, load_external_data=False).graph.node if node.op_type == "PatchLinear"
    }  # fmt: skip
    np.testing.assert_allclose(logits[1], logits[0], atol=tolerance(logits[0], 1, 2.0**-11))
    assert np.abs(logits[0]).max() > 0.1


def exported(module: torch.nn.Module, example: torch.Tensor) -> ir.Model:
    dims = {axis: torch.export.Dim(name, max=32) for axis, name in enumerate(("batch", "sequence"))}
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=(dims,), strict=False)
    made = torch.onnx.export(program, (), dynamo=True, optimize=False, opset_version=23, verbose=False)
    assert made is not None
    return run_passes(made.model, cleanup_passes())


def packed(model: ir.Model, path: Path, fuse: tuple[str, ...]) -> Fused:
    """Write a model packed under `masks_of` and return its epilogues."""
    masks, copy = masks_of(model), model.clone()
    tensors = {name: value.const_value.numpy() for name, value in copy.graph.initializers.items()}
    dtype = next(site.weight.dtype for site in lowerable_linears(copy).values())
    assert dtype is not None
    lowering = lowering_passes(plan_linears(masks), masks, tensors.__getitem__, dtype, fuse=fuse)
    run_passes(copy, lowering.in_order)
    write_onnx(copy, path)
    found = overloads(path)
    if dtype == ir.DataType.BFLOAT16:
        write_onnx(EmulateBfloat16Pass()(ir.load(path)).model, path)
    return found


def check_fusion(model: ir.Model, feed: np.ndarray, tmp_path: Path, expected: Fused, roundoff: float) -> None:
    results = []
    for fuse in ((), tuple(FUSIONS)):
        path = tmp_path / f"{len(fuse)}.onnx"
        found = packed(model, path, fuse)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {session.get_inputs()[0].name: feed})[0].astype(np.float32))
    assert found == expected
    np.testing.assert_allclose(results[1], results[0], atol=tolerance(results[0], 2, roundoff))
    assert np.abs(results[0]).max() > 0.1


class Mlp(torch.nn.Module):
    """The MLP of GPT-2 and of encoders."""

    def __init__(self, activation: str) -> None:
        from transformers.activations import ACT2FN

        super().__init__()
        self.up, self.down = torch.nn.Linear(64, 96), torch.nn.Linear(96, 64)
        self.act = ACT2FN[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(x)))


@pytest.mark.parametrize(
    ("activation", "dtype", "up"),
    [
        ("gelu_new", torch.float16, "bias_gelu_tanh"),
        ("gelu_new", torch.bfloat16, "bias_gelu_tanh"),
        ("gelu", torch.bfloat16, "bias_gelu"),
        ("silu", torch.float16, "bias_silu"),
        ("quick_gelu", torch.float16, "bias"),
        ("relu", torch.float16, "bias"),
    ],
)
def test_a_residual_mlp(activation: str, dtype: torch.dtype, up: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_mlp(Mlp(activation), dtype, {up: 1, "bias_residual": 1}, tmp_path)


def check_mlp(mlp: torch.nn.Module, dtype: torch.dtype, expected: Fused, tmp_path: Path) -> None:
    model = exported(mlp.to(dtype), torch.zeros(2, 3, 64, dtype=dtype))
    x = np.random.default_rng(0).standard_normal((2, 3, 64)).astype(np.float32)
    fp16 = dtype == torch.float16
    feed = x.astype(np.float16) if fp16 else x.astype(ml_dtypes.bfloat16).astype(np.float32)
    check_fusion(model, feed, tmp_path, expected, 2.0**-11 if fp16 else 2.0**-8)


class GatedMlp(torch.nn.Module):
    """The MLP of Llama and its descendants."""

    def __init__(self, activation: str) -> None:
        from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP

        super().__init__()
        self.mlp = LlamaMLP(LlamaConfig(hidden_size=64, intermediate_size=96, hidden_act=activation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(x)


@pytest.mark.parametrize(
    ("activation", "gated"),
    [
        # Gemma's, also with the name that older checkpoints have, and with the exact GELU
        ("gelu_pytorch_tanh", {"gated_gelu_tanh": 1}),
        ("gelu_new", {"gated_gelu_tanh": 1}),
        ("gelu", {"gated_gelu": 1}),
        ("quick_gelu", {"": 2}),
    ],
)
def test_a_gated_mlp(activation: str, gated: Fused, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_mlp(GatedMlp(activation), torch.float16, {**gated, "residual": 1}, tmp_path)


def test_an_encoder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                        num_attention_heads=4, max_position_embeddings=32, initializer_range=0.2,
                        attn_implementation="eager")  # fmt: skip

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.bert = BertModel(config, add_pooling_layer=False).half()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.bert(ids).last_hidden_state

    model = exported(Encoder(), torch.zeros(2, 5, dtype=torch.int64))
    expected = {"bias": 2, "bias_gelu": 2, "bias_residual": 2 * 2}
    check_fusion(model, np.arange(24).reshape(2, 12) * 3, tmp_path, expected, 2.0**-11)
