"""Linears of type w8a8 round their inputs to int8 in every model that is made of their checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import ROUNDED_INPUTS, rounded_inputs_setting
from masklearn.model.models import load_model
from masklearn.model.rounded_inputs import quantise, round_inputs, round_inputs_of
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.moments import input_moments
from masklearn.training.model import training_model
from tests.conftest import ModelMaker
from tests.masklearn.edits import edit_config
from tests.refusals import refused

DOWN = "model.layers.0.mlp.down_proj"
Row = np.ndarray


def by_the_rule(row: Row) -> tuple[Row, np.float32]:
    """The arithmetic in numpy, number by number."""
    largest = np.abs(row).max()
    if not np.isfinite(largest):
        return np.zeros_like(row), np.float32(np.nan)
    if largest < np.float32(2.0**-100):
        return np.zeros_like(row), np.float32(0)
    inverse, scale = np.float32(127) / largest, largest / np.float32(127)
    return np.array([np.clip(np.rint(one * inverse), -127, 127) for one in row], np.float32), scale


@given(arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_subnormal=True)))
def test_integers_and_scales_follow_the_rule(x: Row) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        rows = [by_the_rule(row) for row in x]
    integers, scales = quantise(torch.from_numpy(x))
    np.testing.assert_array_equal(integers, [one for one, _ in rows])
    np.testing.assert_array_equal(scales[:, 0], [scale for _, scale in rows])


def test_halves_go_to_the_even_integer() -> None:
    integers, scale = quantise(torch.tensor([[127.0, 0.5, 1.5, -2.5, 3.5]], dtype=torch.float16))
    assert scale.item() == 1.0 and integers.tolist() == [[127.0, 0.0, 2.0, -2.0, 4.0]]


def test_bad_tokens_spoil_only_themselves() -> None:
    x = torch.ones(4, 6)
    x[1, 2], x[2, 3], x[3] = torch.inf, torch.nan, 0.0
    rounded = round_inputs(x)
    assert rounded[0].isfinite().all() and rounded[1:3].isnan().all() and not rounded[3].any()
    assert round_inputs(torch.ones(0, 6)).shape == (0, 6) and round_inputs(torch.ones(2, 0)).shape == (2, 0)


def test_the_gradient_passes_straight_through() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    weights = torch.randn(3, 8)
    (round_inputs(x) * weights).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, weights)


def test_linears_of_one_input_share_its_rounding() -> None:
    q, k = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    round_inputs_of({"q": q, "k": k})
    x = torch.randn(3, 8)

    def run() -> None:
        q(x), k(x)

    moments = input_moments({"q": q, "k": k}, run)
    assert moments["q"] is moments["k"]
    rounded = round_inputs(x)
    torch.testing.assert_close(moments["q"].matrix, rounded.T @ rounded)
    before = q(x)
    x[0] *= 2  # the same tensor with other numbers
    assert not torch.equal(q(x)[0], before[0])


def with_rounded(path: Path, *linears: str) -> Path:
    edit_config(path, **{ROUNDED_INPUTS: rounded_inputs_setting(dict.fromkeys(linears))})
    return path


def test_every_way_to_run_a_checkpoint_rounds(make_model: ModelMaker) -> None:
    path = make_model("llama")
    ids = torch.arange(12).reshape(1, 12) % 40
    plain = load_model(path)(ids).logits
    checkpoint = Checkpoint.open(with_rounded(path, DOWN))
    assert checkpoint.rounded_inputs == {DOWN: None}
    logits = load_model(path)(ids).logits
    assert not torch.allclose(logits, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(training_model(checkpoint)(ids).logits, logits)
    for block in stream_blocks(checkpoint, ids.numpy(), head=True):
        if block.is_head:
            torch.testing.assert_close(block.run(block.hidden[0]), logits)
    model = load_model(path)
    model.get_submodule(DOWN).register_forward_hook(lambda _, args, __: seen.append(args[0]))
    seen: list[torch.Tensor] = []
    model(ids)
    assert all(len(token.unique()) <= 255 for token in seen[0][0])
    assert torch.equal(seen[0], round_inputs(seen[0]))


def test_other_copies_round_what_they_are_told(make_model: ModelMaker) -> None:
    checkpoint = Checkpoint.open(with_rounded(make_model("llama"), DOWN))
    assert checkpoint.rounding_inputs([]).rounded_inputs == {}
    assert checkpoint.rounding_inputs(["a"]).rounded_inputs == {"a": None}


@pytest.mark.parametrize(
    "value", [[DOWN], {"targets": [DOWN]}, rounded_inputs_setting({DOWN: None}) | {"num_bits": 4}]
)
def test_another_setting_of_inputs_is_refused(make_model: ModelMaker, value: object) -> None:
    path = make_model("llama")
    edit_config(path, **{ROUNDED_INPUTS: value})
    with refused():
        Checkpoint.open(path)


def test_a_linear_the_model_lacks_is_refused(make_model: ModelMaker) -> None:
    path = with_rounded(make_model("llama"), "model.layers.9.mlp.down_proj")
    with refused():
        load_model(path)
