import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from masklearn.masks.nm_codes import PATTERNS
from masklearn.masks.tiles import WHOLE, expand_tiles, grid_shape, tile_weights
from masklearn.methods.base import Candidate
from masklearn.methods.gradient.parametrization import (
    PRIOR_LOGIT,
    Drawing,
    HybridMask,
    candidate_from_logits,
    dense_share,
    first_pattern_logits,
    gumbel,
    likeliest,
    spread_tiles,
    weight_of_codes,
    weight_of_logits,
)

SHAPE, RAGGED = (6, 20), (4, 8)  # ragged in both directions


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
        RAGGED,
        tile_logits=torch.randn(grid_shape(SHAPE, RAGGED)) * 0.05 if tiles else None,
        pattern_logits=first_pattern_logits(codes) if patterns else None,
        codes=None if patterns else codes,
    )
    parametrize.register_parametrization(linear, "weight", mask)
    return linear


@pytest.mark.parametrize("patterns", [True, False])
def test_only_logits_train(patterns: bool) -> None:
    linear = masked_linear(Drawing(0), patterns=patterns)
    trained = {name.rpartition(".")[2] for name, p in linear.named_parameters() if p.requires_grad}
    assert trained == {"tile_logits"} | ({"pattern_logits"} if patterns else set())
    linear(torch.ones(1, SHAPE[1])).sum().backward()
    assert all(p.grad is not None for p in linear.parameters() if p.requires_grad)
    assert "parametrizations.weight.0.codes" not in linear.state_dict()


def test_dense_weights_when_the_mask_is_off() -> None:
    drawing = Drawing(0, masked=False)
    linear = masked_linear(drawing)
    assert torch.equal(linear.weight, linear.parametrizations.weight.original)
    drawing.masked = True
    assert not torch.equal(linear.weight, linear.parametrizations.weight.original)


def test_noise_depends_on_seed_rank_step_place() -> None:
    def weight(place: int = 0, **drawing: int) -> torch.Tensor:
        settings = {"seed": 1, "rank": 0, "step": 5} | drawing
        return masked_linear(Drawing(**settings), place=place).weight

    torch.manual_seed(3)
    first = weight()
    torch.rand(7)
    assert torch.equal(weight(), first)
    for other in (weight(seed=2), weight(rank=1), weight(step=6), weight(place=1)):
        assert not torch.equal(other, first)


def test_hard_draws_follow_the_logits() -> None:
    drawing = Drawing(0, tile_scale=1e6, pattern_scale=1e6, temperature=0.05, record={})
    linear = masked_linear(drawing)
    mask: HybridMask = linear.parametrizations.weight[0]
    keep = (linear.weight != 0).detach()
    sums = drawing.record[0]
    sparse = mask.tile_logits.detach().numpy() < 0
    assert 0 < sparse.sum() < sparse.size
    areas = tile_weights(SHAPE, RAGGED)
    assert float(sums.sparse.detach()) == areas[sparse].sum() == 2 * int((~keep).sum())
    torch.testing.assert_close(sums.energy, linear.weight.square().sum())
    codes = mask.pattern_logits.argmax(dim=1).numpy()
    for n, g in np.ndindex(*codes.shape):
        kept = PATTERNS[codes[n, g]] if sparse[n // RAGGED[0], 4 * g // RAGGED[1]] else np.ones(4, bool)
        np.testing.assert_array_equal(keep[n, 4 * g : 4 * g + 4].numpy(), kept)


def test_without_tile_logits_every_tile_is_sparse() -> None:
    drawing = Drawing(0, pattern_scale=1e6, temperature=0.05, record={})
    linear = masked_linear(drawing, tiles=False)
    assert int((linear.weight == 0).sum()) == SHAPE[0] * SHAPE[1] // 2
    assert float(drawing.record[0].sparse.detach()) == SHAPE[0] * SHAPE[1]


TILE = (3, 8)


def test_pattern_logits_are_the_overlap_with_the_prior() -> None:
    """Pattern 01 shares both positions with itself, none with 23, and one position with the other four patterns."""
    found = first_pattern_logits(torch.tensor([[0]], dtype=torch.uint8)).flatten() / PRIOR_LOGIT
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, -1.0]))


def test_scores_rank_tiles_by_logit_whatever_their_size() -> None:
    logits = torch.tensor([[0.03, -0.2, 0.01], [0.5, -0.3, 0.0]])
    score = candidate_from_logits(
        None, logits, Candidate(np.zeros((5, 5), np.uint8), np.zeros(1, np.float32)), TILE
    ).score
    per_weight = score / tile_weights((5, 20), TILE)
    np.testing.assert_array_equal(per_weight.ravel().argsort(), logits.numpy().ravel().argsort())
    assert (score > 0).all()


def test_of_equal_logits_the_lowest_code_wins() -> None:
    logits = torch.tensor([[0.0, 1, 1, 0, 1, 0], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 3]]).view(3, 6, 1)
    assert likeliest(logits).flatten().tolist() == [1, 0, 5]
    assert likeliest(logits).dtype is torch.uint8
    random = torch.randn(7, 6, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(likeliest(random).long(), random.argmax(dim=1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_mask(dense: Tensor, logits: Tensor, noise: Tensor, scale: float, temperature: float) -> Tensor:
    """M of PATCH by its equations, group by group: `[N, K/4, 4]`."""
    shares = ((logits * scale + noise) / temperature).softmax(dim=1)
    rows = []
    for n, g in np.ndindex(*dense.shape):
        pattern = sum(shares[n, code, g] * torch.tensor(PATTERNS[code]).to(shares) for code in range(6))
        rows.append(dense[n, g] + (1 - dense[n, g]) * pattern)
    return torch.stack(rows).view(*dense.shape, 4)


def drawn(rows: int, groups: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = generator(seed)
    weight = torch.randn(rows, 4 * groups, generator=draw)
    dense = torch.rand(rows, groups, generator=draw)
    logits = torch.randn(rows, 6, groups, generator=draw) * 0.01
    return weight, dense, logits, gumbel(logits.shape, logits.device, draw)


@settings(max_examples=25)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 6),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([4.0, 0.7]),
)
def test_values_and_gradients_are_those_of_the_equations(
    rows: int, groups: int, seed: int, temperature: float
) -> None:
    """The equations are computed in float64, because in fp32 their own gradients are less exact than ours."""
    drawn_values = drawn(rows, groups, seed)
    into = torch.randn(drawn_values[0].shape, generator=generator(seed + 1))
    results = []
    for plain in (True, False):
        weight, dense, logits, noise = (t.double() if plain else t for t in drawn_values)
        d, p = dense.clone().requires_grad_(), logits.clone().requires_grad_()
        if plain:
            masked = weight * plain_mask(d, p, noise, 90.0, temperature).view(weight.shape)
            energy = masked.square().sum()
        else:
            masked, energy = weight_of_logits(weight, d, p, noise.clone(), 90.0, temperature)
        loss = (masked * into).sum() + 0.3 * energy
        results.append((masked, energy, *torch.autograd.grad(loss, (d, p))))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_fixed_patterns_equal_logits_that_leave_no_choice() -> None:
    weight, dense, logits, _ = drawn(6, 5, 3)
    codes = logits.argmax(dim=1).to(torch.uint8)
    hard = torch.nn.functional.one_hot(codes.long(), 6).transpose(1, 2).float()
    d1, d2 = dense.clone().requires_grad_(), dense.clone().requires_grad_()
    masked, energy = weight_of_codes(weight, d1, codes)
    expected, expected_energy = weight_of_logits(weight, d2, hard, torch.zeros_like(hard), 1000.0, 1.0)
    torch.testing.assert_close(masked, expected)
    torch.testing.assert_close(energy, expected_energy)
    ours = torch.autograd.grad((masked**3).sum() + energy, d1)
    torch.testing.assert_close(ours, torch.autograd.grad((expected**3).sum() + expected_energy, d2))


@pytest.mark.parametrize(
    "shape, tile", [((5, 24), (2, 8)), ((4, 8), (4, 8)), ((7, 20), (16, 12)), ((7, 20), (2, WHOLE))]
)
def test_tiles_spread_as_their_map_expands(shape: tuple[int, int], tile: tuple[int, int]) -> None:
    grid = torch.rand(grid_shape(shape, tile), generator=generator())
    expected = expand_tiles(grid.numpy() > 0.5, shape, tile)
    np.testing.assert_array_equal(spread_tiles(grid, shape, tile).numpy() > 0.5, expected)


def test_dense_shares_are_gumbel_softmax_draws() -> None:
    """Both have the same distribution: quantiles of 200,000 draws each agree."""
    logit, scale, temperature = 0.02, 30.0, 2.0
    ours = dense_share(torch.full((200_000,), logit), scale, temperature, generator(4))
    pairs = torch.tensor([0.0, logit * scale]) + gumbel(torch.Size((200_000, 2)), ours.device, generator(5))
    plain = (pairs / temperature).softmax(dim=1)[:, 1]
    levels = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(ours.quantile(levels), plain.quantile(levels), atol=5e-3, rtol=0)


def test_gumbel_draws_have_its_mean_and_variance() -> None:
    draws = gumbel(torch.Size((400_000,)), torch.device("cpu"), generator(6))
    assert draws.isfinite().all()
    assert float(draws.mean()) == pytest.approx(np.euler_gamma, abs=0.01)
    assert float(draws.var()) == pytest.approx(np.pi**2 / 6, rel=0.01)


def test_bfloat16_weights_keep_their_dtype_under_autocast() -> None:
    weight, dense, logits, noise = drawn(4, 6, 8)
    expected, _ = weight_of_logits(weight, dense, logits, noise.clone(), 90.0, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        masked, _ = weight_of_logits(weight, dense, logits, noise.clone(), 90.0, 2.0)
        small, _ = weight_of_logits(weight.bfloat16(), dense, logits, noise.clone(), 90.0, 2.0)
    assert torch.equal(masked, expected)
    assert small.dtype is torch.bfloat16
    torch.testing.assert_close(small.float(), expected, rtol=2e-2, atol=1e-3)
