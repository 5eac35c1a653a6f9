from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import linear_modules
from masklearn.model.models import auto_class
from masklearn.stream.blocks import stream_blocks
from tests.conftest import ModelMaker
from tests.families import write_family
from tests.masklearn.architectures import LANGUAGE_MODELS, every
from tests.masklearn.edits import edited_weights
from tests.masklearn.stream.logits import check_logits
from tests.refusals import refused

WINDOWS = np.random.default_rng(0).integers(0, 40, (3, 11))


@pytest.mark.parametrize("model_type", every())
def test_streamed_inputs_equal_the_whole_models(make_model, model_type) -> None:
    """Windows of 11 tokens are longer than the tiny models' sliding windows."""
    path = make_model(model_type, shard="30KB")
    checkpoint, row = Checkpoint.open(path), ARCHITECTURES[model_type]
    whole = auto_class(row).from_pretrained(path).eval()
    modules = linear_modules(whole, checkpoint)
    parts = tuple(f"{name}." for name in (row.blocks, *row.tail))
    streamed = {id(module) for name, module in whole.named_modules() if f"{name}.".startswith(parts)}
    linears = {name: module for name, module in modules.items() if id(module) in streamed}
    assert len(linears) >= 12
    expected = record(linears, lambda: [whole(torch.from_numpy(window)[None]) for window in WINDOWS])
    seen: dict[str, torch.Tensor] = {}
    for block in stream_blocks(checkpoint, WINDOWS, "cpu", only=list(linears)):
        assert all(torch.equal(linear.weight, linears[name].weight) for name, linear in block.linears.items())
        seen |= record(block.linears, block.advance)
    assert sorted(seen) == sorted(linears)
    for name, inputs in expected.items():
        torch.testing.assert_close(seen[name], inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", every(LANGUAGE_MODELS))
def test_the_streamed_head_gives_equal_logits(make_model, model_type: str) -> None:
    path = make_model(model_type)
    whole = auto_class(ARCHITECTURES[model_type]).from_pretrained(path).eval()
    assert check_logits(path, whole, WINDOWS, only=[]) == [False, False, False, True]


@pytest.mark.parametrize("name", ["bloom", "falcon", "gpt_neo"])
def test_many_blocks_may_return_tuples(tmp_path: Path, name: str) -> None:
    of_neo = {"attention_types": [[["global", "local"], 3]]} if name == "gpt_neo" else {}
    path = write_family(tmp_path / "model", name, num_hidden_layers=6, **of_neo)
    whole = AutoModelForCausalLM.from_pretrained(path).eval()
    assert check_logits(path, whole, WINDOWS)[-1]


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_shares_the_embedding(make_model: ModelMaker, tied: bool) -> None:
    path = make_model("gpt2", tie_word_embeddings=tied)
    assert ("lm_head.weight" in Checkpoint.open(path)) is not tied
    whole = auto_class(ARCHITECTURES["gpt2"]).from_pretrained(path)
    for block in stream_blocks(Checkpoint.open(path), WINDOWS, "cpu", head=True):
        if block.is_head:
            assert torch.equal(block.linears["lm_head"].weight, whole.lm_head.weight)


@pytest.mark.parametrize(("model_type", "longest"), [("gpt2", 64), ("opt", 64), ("roberta", 62)])
def test_windows_longer_than_learned_positions(make_model, model_type: str, longest: int) -> None:
    checkpoint = Checkpoint.open(make_model(model_type))
    next(stream_blocks(checkpoint, np.full((1, longest), 5), "cpu"))
    with refused():
        next(stream_blocks(checkpoint, np.full((1, longest + 1), 5), "cpu"))


def record(linears: dict[str, torch.nn.Linear], run) -> dict[str, torch.Tensor]:
    """Record the inputs of every linear, windows in order."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in linears}
    hooks = [
        linear.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].detach()))
        for name, linear in linears.items()
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(inputs) for name, inputs in seen.items()}


def test_one_block_is_in_memory(make_model: ModelMaker) -> None:
    blocks = []
    for block in stream_blocks(Checkpoint.open(make_model()), WINDOWS):
        blocks.append(block)
        on_meta = [all(p.is_meta for p in b.module.parameters()) for b in blocks]
        assert on_meta == [True] * (len(blocks) - 1) + [False]
    assert len(blocks) == 3


def test_changed_weights_change_what_the_next_block_sees(make_model: ModelMaker) -> None:
    def inputs_of_the_last(change: bool) -> torch.Tensor:
        for i, block in enumerate(stream_blocks(Checkpoint.open(path), WINDOWS)):
            if i == 2:
                return record(block.linears, block.forward)["model.layers.2.self_attn.q_proj"]
            if change and i == 0:
                block.linears["model.layers.0.mlp.down_proj"].weight.zero_()
        raise AssertionError

    path = make_model()
    assert not torch.allclose(inputs_of_the_last(False), inputs_of_the_last(True))


def test_blocks_after_the_last_wanted_are_not_run(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    wanted = ["model.layers.1.mlp.up_proj"]
    assert len(list(stream_blocks(checkpoint, WINDOWS, only=wanted))) == 2
    assert len(list(stream_blocks(checkpoint, WINDOWS, only=[*wanted, "lm_head"]))) == 4
    assert len(list(stream_blocks(checkpoint, WINDOWS))) == 3


def test_faults_of_the_checkpoint_are_named(make_model: ModelMaker) -> None:
    path = make_model()
    name = "model.layers.1.post_attention_layernorm.weight"
    for fault in (torch.full((48,), float("inf")), torch.ones(4), None):
        with edited_weights(path) as tensors:
            tensors.pop(name)
            tensors.update({} if fault is None else {name: fault})
        with refused():
            list(stream_blocks(Checkpoint.open(path), WINDOWS))


def test_foreign_tokens_and_devices(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(make_model())
    with refused():
        next(stream_blocks(checkpoint, WINDOWS * 0 + 40))
    with refused():
        next(stream_blocks(checkpoint, WINDOWS, "gpu"))


def test_an_encoder_has_no_language_model_head(make_model: ModelMaker) -> None:
    with refused():
        next(stream_blocks(Checkpoint.open(make_model("bert")), WINDOWS, "cpu", head=True))


def test_forward_may_repeat_and_advance_may_not(make_model: ModelMaker) -> None:
    block = next(stream_blocks(Checkpoint.open(make_model()), WINDOWS))
    first = record(block.linears, block.forward)
    second = record(block.linears, block.forward)
    assert all(torch.equal(first[name], second[name]) for name in first)
    block.advance()
    with refused(RuntimeError):
        block.advance()
