from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from masklearn.feed import Replaced
from masklearn.model.checkpoint import Checkpoint
from masklearn.quant.table import INT4
from masklearn.solvers.rounding import round_nearest
from masklearn.stream import block_rounding
from masklearn.stream.block_rounding import train_rounding
from masklearn.stream.blocks import Block, stream_blocks
from tests.conftest import ModelMaker
from tests.masklearn.threads import with_one_and_two_threads

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


@dataclass
class Rounded:
    """A block whose linears are pruned and rounded; outputs of the dense block, and inputs and outputs of other text."""

    block: Block
    targets: Sequence[torch.Tensor]
    found: dict[str, Replaced]
    other_inputs: Sequence[torch.Tensor]
    other_targets: Sequence[torch.Tensor]

    def error(self) -> float:
        """Relative squared error of the outputs on the other text."""
        with torch.no_grad():
            pairs = zip(self.other_inputs, self.other_targets, strict=True)
            return sum(float((self.block.run(x) - t).square().sum() / t.square().sum()) for x, t in pairs)


def rounded(make_model: ModelMaker, model_type: str = "llama", length: int = 32) -> Rounded:
    """The least fifth of the weights is pruned, and the others are rounded to the nearest numbers."""
    checkpoint, random = Checkpoint.open(make_model(model_type, **SIZES)), np.random.default_rng(0)
    windows = random.integers(0, 20, (32, length))
    dense, other, block = (
        next(iter(stream_blocks(checkpoint, ids))) for ids in (windows[:24], windows[24:], windows[:24])
    )
    inputs = list(other.hidden)
    dense.advance()
    other.advance()
    found = {}
    for name, linear in block.linears.items():
        kept = linear.weight.abs() > linear.weight.abs().quantile(0.2)
        one = round_nearest(linear.weight.data, kept, INT4)
        found[name] = Replaced(one.values, {}, one.grid, (linear.weight.data * kept, kept))
        linear.weight.data.copy_(one.values)
    return Rounded(block, dense.hidden, found, inputs, list(other.hidden))


@pytest.mark.parametrize("model_type", ["llama", "bert", "mixtral"])
def test_training_loses_less_on_other_text(make_model: ModelMaker, model_type: str) -> None:
    """Pruned weights stay 0, and the others lie on grids with storable scales."""
    made = rounded(make_model, model_type)
    before = made.error()
    trained = train_rounding(made.block, made.targets, made.found)
    assert made.error() < 0.9 * before
    moved = 0
    for name, one in trained.items():
        assert one.grid is not None and one.unrounded is not None
        assert torch.equal(made.block.linears[name].weight, one.values)
        assert not one.values[~one.unrounded[1]].any()
        given = made.found[name]
        assert given.grid is not None
        moved += (one.grid.integers(one.values.numpy()) != given.grid.integers(given.values.numpy())).sum()
    assert moved


def test_rounding_that_loses_more_is_dropped(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_rounding, "_RATE", 1.0)
    made = rounded(make_model)
    trained = train_rounding(made.block, made.targets, made.found)
    for name, one in made.found.items():
        assert trained[name] is one
        assert torch.equal(made.block.linears[name].weight, one.values)
        assert not made.block.linears[name].weight.requires_grad


def test_thread_count_does_not_change_bytes(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_rounding, "_STEPS", 6)

    def train() -> dict[str, Replaced]:
        made = rounded(make_model, length=512)
        return train_rounding(made.block, made.targets, made.found)

    found = with_one_and_two_threads(train)
    assert all(torch.equal(found[0][name].values, found[1][name].values) for name in found[0])
