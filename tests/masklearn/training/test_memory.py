"""Memory estimates, which decide the savings that training takes."""

from dataclasses import replace

from torch import nn

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import meta_model
from masklearn.training.model import MemoryNeed, MemorySettings, first_that_fits, memory_need
from tests.conftest import ModelMaker
from tests.masklearn.training.masks import magnitude_masks

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


def test_the_estimate_is_above_what_was_measured_and_not_far() -> None:
    assert 4.45 < gib(PLAIN, bf16=False) < 5.6
    half = replace(PLAIN, teacher_bf16=True)
    assert 3.85 < gib(half, bf16=True) < 4.8
    assert 2.67 < gib(replace(half, gradient_checkpointing=True), bf16=True) < 3.4


def test_what_fits_is_taken_as_it_is() -> None:
    said: list[str] = []
    assert first_that_fits(SMOLLM2, PLAIN, 6 * 2**30, bf16=False, note=said.append) == PLAIN
    assert not said


def test_each_step_down_is_said_with_its_numbers() -> None:
    said: list[str] = []
    settings = first_that_fits(SMOLLM2, PLAIN, 2 * 2**30, bf16=False, note=said.append)
    assert settings == MemorySettings("adafactor", teacher_bf16=True, gradient_checkpointing=True)
    assert len(said) == 2
    assert "AdamW, teacher in fp32" in said[0] and "2.0 GiB are available" in said[0]
    assert "gradient checkpointing" in said[1]


def test_nothing_fits_into_nothing() -> None:
    said: list[str] = []
    assert first_that_fits(SMOLLM2, PLAIN, 2**28, bf16=False, note=said.append) is None
    assert len(said) == 3


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
