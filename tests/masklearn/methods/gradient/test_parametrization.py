import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from masklearn.masks.nm_codes import PATTERNS
from masklearn.masks.tiles import grid_shape, tile_weights
from masklearn.methods.gradient.parametrization import Drawing, HybridMask, first_pattern_logits

SHAPE, TILE = (6, 20), (4, 8)  # ragged in both directions


def masked_linear(
    drawing: Drawing, *, patterns: bool = True, tiles: bool = True, place: int = 0
) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(SHAPE[1], SHAPE[0]).requires_grad_(False)
    codes = torch.randint(6, (SHAPE[0], SHAPE[1] // 4), dtype=torch.uint8)
    mask = HybridMask(
        drawing,
        place,
        SHAPE,
        TILE,
        tile_logits=torch.randn(grid_shape(SHAPE, TILE)) * 0.05 if tiles else None,
        pattern_logits=first_pattern_logits(codes) if patterns else None,
        codes=None if patterns else codes,
    )
    parametrize.register_parametrization(linear, "weight", mask)
    return linear


def test_only_logits_train() -> None:
    linear = masked_linear(Drawing(0))
    trained = {name for name, parameter in linear.named_parameters() if parameter.requires_grad}
    assert trained == {"parametrizations.weight.0.tile_logits", "parametrizations.weight.0.pattern_logits"}
    linear(torch.ones(1, SHAPE[1])).sum().backward()
    assert all(p.grad is not None for p in linear.parameters() if p.requires_grad)
    assert linear.parametrizations.weight.original.grad is None


def test_dense_weights_when_the_mask_is_off() -> None:
    drawing = Drawing(0, masked=False)
    linear = masked_linear(drawing)
    assert torch.equal(linear.weight, linear.parametrizations.weight.original)
    drawing.masked = True
    assert not torch.equal(linear.weight, linear.parametrizations.weight.original)


def test_noise_depends_on_seed_rank_step_and_place_alone() -> None:
    def weight(place: int = 0, **drawing: int) -> torch.Tensor:
        settings = {"seed": 1, "rank": 0, "step": 5} | drawing
        return masked_linear(Drawing(**settings), place=place).weight

    torch.manual_seed(3)
    first = weight()
    torch.rand(7)
    assert torch.equal(weight(), first)
    for other in (weight(seed=2), weight(rank=1), weight(step=6), weight(place=1)):
        assert not torch.equal(other, first)


def test_hard_draws_follow_the_logits_and_ragged_tiles_count_by_their_weights() -> None:
    drawing = Drawing(0, tile_scale=1e6, pattern_scale=1e6, temperature=0.05, record={})
    linear = masked_linear(drawing)
    mask: HybridMask = linear.parametrizations.weight[0]
    keep = (linear.weight != 0).detach()
    sums = drawing.record[0]
    sparse = mask.tile_logits.detach().numpy() < 0
    assert 0 < sparse.sum() < sparse.size
    areas = tile_weights(SHAPE, TILE)
    assert float(sums.sparse.detach()) == areas[sparse].sum() == 2 * int((~keep).sum())
    torch.testing.assert_close(sums.energy, linear.weight.square().sum())
    codes = mask.pattern_logits.argmax(dim=1).numpy()
    for n, g in np.ndindex(*codes.shape):
        kept = PATTERNS[codes[n, g]] if sparse[n // TILE[0], 4 * g // TILE[1]] else np.ones(4, bool)
        np.testing.assert_array_equal(keep[n, 4 * g : 4 * g + 4].numpy(), kept)


def test_without_tile_logits_every_tile_is_sparse() -> None:
    drawing = Drawing(0, pattern_scale=1e6, temperature=0.05, record={})
    linear = masked_linear(drawing, tiles=False)
    assert int((linear.weight == 0).sum()) == SHAPE[0] * SHAPE[1] // 2
    assert float(drawing.record[0].sparse.detach()) == SHAPE[0] * SHAPE[1]


def test_fixed_patterns_have_no_parameters() -> None:
    drawing = Drawing(0, tile_scale=-1e6, temperature=0.05)
    linear = masked_linear(drawing, patterns=False)
    assert [name for name, p in linear.named_parameters() if p.requires_grad] == [
        "parametrizations.weight.0.tile_logits"
    ]
    assert "parametrizations.weight.0.codes" not in linear.state_dict()


@pytest.mark.parametrize("patterns", [True, False])
def test_gradient_checkpointing_draws_the_same_mask_again(patterns: bool) -> None:
    drawing = Drawing(0, record={})
    linear = masked_linear(drawing, patterns=patterns)
    inputs = torch.randn(3, SHAPE[1], requires_grad=True)
    logits = [parameter for parameter in linear.parameters() if parameter.requires_grad]

    def gradients(run: object) -> tuple[torch.Tensor, ...]:
        drawing.record = {}
        loss = run(inputs).square().sum() + drawing.record[0].energy + drawing.record[0].sparse
        drawing.record = None
        return torch.autograd.grad(loss, [*logits, inputs])

    plain = gradients(linear)
    again = gradients(lambda x: checkpoint(linear, x, use_reentrant=False))
    for expected, found in zip(plain, again, strict=True):
        torch.testing.assert_close(found, expected)
    assert drawing.record is None
