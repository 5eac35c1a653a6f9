"""Decoders without a row, and mixtures of experts, are learned, compiled and proven in one build."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from masklearn.masks.maskset import MaskSet
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import verify
from tests.builds import build
from tests.families import write_family
from tests.refusals import refused

_IN_EVERY_RUN = ("cohere2", "mixtral")
_OTHERS = ("bloom", "gpt_oss", "granite", "olmo2", "olmoe", "qwen2_moe")


@pytest.mark.parametrize(
    "name", [*_IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.families) for name in _OTHERS)]
)
def test_a_family_builds_and_agrees_with_transformers(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = write_family(tmp_path / "model", name, num_hidden_layers=2)
    report = build(settings | {"model": model})
    assert 0 < report["agreement"]["error"] <= report["agreement"]["tolerance"]["share"]
    masks = MaskSet.load(tmp_path / "out" / "masks.safetensors")
    assert masks.zeroed > 0 and not any(".experts." in linear for linear in masks)


def test_rounded_expert_choices_are_no_fault(settings: dict[str, Any], tmp_path: Path) -> None:
    """Rounding of two numbers decides which experts the graph runs. The proof runs the same experts and judges them."""
    model = write_family(tmp_path / "model", "mixtral", num_hidden_layers=2)
    weights = load_file(model / "model.safetensors")
    first = "model.layers.0."
    norm, gate = (
        weights[f"{first}post_attention_layernorm.weight"],
        weights[f"{first}block_sparse_moe.gate.weight"],
    )
    # Hidden states 0 and 1 are equal before the norm, and differ by 2⁻¹⁰ behind it. Scores are their weighted difference,
    # which is about 2⁻¹² of each: rounding to 16 bits often changes its sign.
    for name, axis in (("model.embed_tokens", 1), (f"{first}self_attn.o_proj", 0)):
        weight = weights[f"{name}.weight"]
        weight.select(axis, 1).copy_(weight.select(axis, 0))
    norm[:2] = torch.tensor([1.0, 1.0 + 2.0**-10])
    gate.zero_()
    gate[:, :2] = torch.outer(torch.tensor([-1.0, -0.5, 0.5, 1.0]), torch.tensor([-0.75 - 2.0**-11, 0.75]))
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    agreement = build(settings | {"model": model})["agreement"]
    assert agreement["error"] <= agreement["tolerance"]["share"]
    assert agreement["tolerance"]["origin"] == "roundings"
    compiled = verify(tmp_path / "out", VerifyRequest.parse({"only": "compiled", "lengths": "1,17"})).compiled
    assert compiled is not None and compiled.passed and compiled.tolerance.origin == "roundings"


def test_mismatched_models_are_refused_before_work(settings: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model("modernbert-decoder", hidden_size=64, num_attention_heads=4).save_pretrained(
        tmp_path / "model"
    )
    (settings["model"] / "config.json").write_bytes((tmp_path / "model" / "config.json").read_bytes())
    with refused():
        build(settings)
    assert not settings["out"].exists()
