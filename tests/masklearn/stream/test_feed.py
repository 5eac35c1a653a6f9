from functools import partial
from typing import Any

import pytest
import torch

from masklearn.feed import Group, Replaced
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.rounded_inputs import round_inputs
from masklearn.model.store import WeightStore
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.feed import CheckpointFeed
from masklearn.stream.logits import watch_calls
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny

SETTINGS = {"ratio": 0.0, "method": "sparsegpt", "windows": 2, "length": 32}


def test_groups_that_are_rounded_get_weighted_moments(make_model: ModelMaker, tiny: Tiny) -> None:
    """Other groups have no weighted moments. Nor has the output head: errors at all of its tokens count alike."""
    settings = {
        "include": ("*proj", "lm_head"), "weights": "float16,mlp.up_proj=int8,*.k_proj=int8,lm_head=int8",
    }  # fmt: skip
    task = tiny.task(make_model(tie_word_embeddings=False, num_hidden_layers=1), **settings)
    weighted: dict[str, bool] = {}

    def solve(group: Group) -> dict[str, Replaced]:
        for name in group.weights:
            weighted[name.removeprefix("model.layers.0.")] = group.weighted is not None
        return {name: Replaced(weight, {}) for name, weight in group.weights.items()}

    CheckpointFeed(task).replace(solve, WeightStore(task.scratch / "solved"), "test")
    assert weighted == {
        "self_attn.q_proj": True,
        "self_attn.k_proj": True,
        "self_attn.v_proj": True,
        "self_attn.o_proj": False,
        "mlp.gate_proj": True,
        "mlp.up_proj": True,
        "mlp.down_proj": False,
        "lm_head": False,
    }


def test_w8a8_is_solved_on_rounded_inputs(make_model: ModelMaker, tiny: Tiny) -> None:
    """Of linears with one input, those of w8a8 get its rounded numbers, and the others the numbers as they are."""
    task = tiny.task(make_model(num_hidden_layers=1), weights="w8a8,k_proj=int8")
    moments: dict[tuple[str, ...], torch.Tensor] = {}

    def solve(group: Group) -> dict[str, Replaced]:
        moments[tuple(name.rpartition(".")[2] for name in group.weights)] = group.moment.clone()
        return {name: Replaced(weight, {}) for name, weight in group.weights.items()}

    CheckpointFeed(task).replace(solve, WeightStore(task.scratch / "solved"), "test")
    assert [*moments] == [
        ("q_proj", "v_proj"),
        ("k_proj",),
        ("o_proj",),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ]
    inputs: list[torch.Tensor] = []
    for block in stream_blocks(task.checkpoint, task.text.calibration()):
        (q,) = (linear for name, linear in block.linears.items() if name.endswith("q_proj"))
        with watch_calls({"q": q}, lambda _, x, __: inputs.append(x[0])):
            block.forward()
    x = torch.cat(inputs)
    torch.testing.assert_close(moments["k_proj",], x.T @ x)
    torch.testing.assert_close(moments["q_proj", "v_proj"], round_inputs(x).T @ round_inputs(x))


def moments_of(feed: CheckpointFeed, windows: int) -> dict[str, Group]:
    """The groups of a scoring pass by the name of their first linear."""
    seen: dict[str, Group] = {}

    def see(group: Group) -> dict[str, dict[str, Any]]:
        seen[next(iter(group.weights))] = group
        return {name: {} for name in group.weights}

    list(feed.moments(see, windows, "test"))
    return seen


@pytest.mark.usefixtures("fp32")
def test_every_second_window_checks(make_model: ModelMaker, tiny: Tiny) -> None:
    """Of a single window nothing is left to check."""
    path, settings = make_model(num_hidden_layers=1), {"windows": 5, "length": 16}
    windows = tiny.task(path, **settings).text.calibration()
    name = "model.layers.0.self_attn.q_proj"
    whole = moments_of(CheckpointFeed(tiny.task(path, **settings)), 5)[name]
    assert (whole.rows, whole.samples) == (3 * 16, 3 * 16)
    sums: dict[int, torch.Tensor] = {}

    def add(_: str, x: torch.Tensor, __: torch.Tensor) -> None:
        half = block.window % 2
        sums[half] = sums.get(half, torch.zeros(())) + x[0].T @ x[0]

    for block in stream_blocks(Checkpoint.open(path), windows, "cpu"):
        with watch_calls({name: block.linears[name]}, add):
            block.advance()
    torch.testing.assert_close(whole.moment, sums[0])
    assert whole.check is not None
    torch.testing.assert_close(whole.check, sums[1])
    assert moments_of(CheckpointFeed(tiny.task(path, **settings)), 1)[name].check is None


def test_damping_grows_with_few_rows() -> None:
    group = partial(Group, {}, torch.eye(64), samples=1)
    assert [group(rows=rows).damping for rows in (0, 32, 128, 64000)] == [1.0, 1.0, 0.5, 0.01]
