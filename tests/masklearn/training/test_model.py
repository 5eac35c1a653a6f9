"""A checkpoint's model for training computes the same as transformers' model."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import load_model, meta_model
from masklearn.model.modules import computes_in_bf16
from masklearn.training.model import (
    MemoryNeed,
    MemorySettings,
    first_that_fits,
    last_hidden,
    memory_need,
    training_model,
)
from tests.conftest import ModelMaker
from tests.fp32 import UNITS
from tests.masklearn.architectures import every
from tests.masklearn.mask_sets import magnitude_masks

IDS = torch.arange(2, 26).reshape(2, 12) % 20


@pytest.mark.parametrize("model_type", every())
def test_it_is_the_model_of_transformers(make_model: ModelMaker, model_type: str) -> None:
    """Without dropout also while it trains."""
    path = make_model(model_type)
    model = training_model(Checkpoint.open(path)).train()
    ours, theirs = last_hidden(model, IDS), last_hidden(load_model(path), IDS)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_given_parameters_are_shared(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    embedding = training_model(checkpoint).get_input_embeddings().weight
    model = training_model(checkpoint, {"model.embed_tokens.weight": embedding}, torch.bfloat16)
    assert model.get_input_embeddings().weight is embedding
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert {linear.weight.dtype for linear in linears} == {torch.bfloat16}
    assert model.model.norm.weight.dtype is torch.float32


def test_attention_stays_in_fp32_on_a_cpu(make_model: ModelMaker) -> None:
    model, seen = training_model(Checkpoint.open(make_model())), []
    plain = nn.functional.scaled_dot_product_attention

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is plain:
                seen.append({tensor.dtype for tensor in args[:3]})
            return function(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Watch():
        last_hidden(model, IDS)
    assert seen == [{torch.float32}] * 3


@pytest.mark.parametrize("units", [(), ("_is_avx512_bf16_supported",), ("_is_amx_tile_supported",)])
def test_cpus_with_bf16_compute_in_it(monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...]) -> None:
    for name in UNITS:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in units)
    assert computes_in_bf16(torch.device("cpu")) == bool(units)


# SmolLM2-135M, 2 x 512 tokens. Measured peak memory: 4.45 GiB in fp32, 3.8 in bf16, 2.7 checkpointed.
SMOLLM2 = MemoryNeed(
    weights=134_515_008,
    shared=28_346_688,
    trained=106_168_320,
    features=305_280,
    hidden=576,
    blocks=30,
    vocabulary=49_152,
    tokens=1024,
)
PLAIN = MemorySettings("adamw", teacher_bf16=False, gradient_checkpointing=False)


def gib(settings: MemorySettings, *, bf16: bool) -> float:
    return SMOLLM2.bytes_for(settings, bf16=bf16) / 2**30


def test_the_estimate_bounds_measured_memory_closely() -> None:
    assert 4.45 < gib(PLAIN, bf16=False) < 5.6
    half = replace(PLAIN, teacher_bf16=True)
    assert 3.85 < gib(half, bf16=True) < 4.8
    assert 2.67 < gib(replace(half, gradient_checkpointing=True), bf16=True) < 3.4


@pytest.mark.parametrize(
    ("available", "settings", "lines"),
    [
        (6 * 2**30, PLAIN, []),
        (
            2 * 2**30,
            MemorySettings("adafactor", teacher_bf16=True, gradient_checkpointing=True),
            ["AdamW, teacher in fp32", "AdamW, teacher in bf16, gradient checkpointing"],
        ),
        (2**28, None, ["AdamW, teacher in fp32", "AdamW, ", "Adafactor, "]),
    ],
)
def test_the_first_settings_that_fit_are_taken(
    available: int, settings: MemorySettings | None, lines: list[str]
) -> None:
    """Each that does not fit is told with its numbers."""
    notes: list[str] = []
    assert first_that_fits(SMOLLM2, PLAIN, available, bf16=False, note=notes.append) == settings
    for note, line in zip(notes, lines, strict=True):
        assert f"repair with {line}" in note and f"{available / 2**30:.1f} GiB are available" in note


def test_sizes_are_read_off_the_model(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model("llama", tie_word_embeddings=True))
    masks = magnitude_masks(checkpoint)
    need = memory_need(checkpoint, masks, tokens=32)
    assert need.trained == sum(mask.weights for mask in masks.values())
    assert need.weights - need.shared == need.trained
    # q and o 48+48, k and v 48+24, gate and up 48+72, down 72+48
    assert need.features == 3 * (2 * 96 + 2 * 72 + 3 * 120)
    assert (need.blocks, need.hidden, need.vocabulary) == (3, 48, 40)


def test_of_a_mixture_the_chosen_experts_count(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model("mixtral"))
    masks: dict[str, LinearMask] = magnitude_masks(checkpoint)
    need = memory_need(checkpoint, masks, tokens=32)
    gates = [one for name, one in meta_model(checkpoint).named_modules() if name.endswith(".gate")]
    gate = 48 + 4 if isinstance(gates[0], nn.Linear) else 0  # it is one in some versions of transformers
    assert len(gates) == 3
    assert need.features == 3 * (2 * 96 + 2 * 72 + 2 * 3 * 120 + gate)  # 2 of 4 experts
