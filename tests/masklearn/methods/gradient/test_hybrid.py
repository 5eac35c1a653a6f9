import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masklearn.masks.nm_codes import KEPT_POSITIONS, PATTERNS
from masklearn.masks.tiles import WHOLE, expand_tiles, grid_shape
from masklearn.methods.gradient.parametrization import (
    dense_share,
    gumbel,
    spread_tiles,
    weight_of_codes,
    weight_of_logits,
)


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


def test_a_hard_mask_is_exactly_one_of_six_patterns() -> None:
    """τ and κ are those of the last step, and logits are as far apart as training drives them."""
    logits = torch.zeros(8, 6, 10)
    choice = torch.randint(6, (8, 10), generator=generator(1))
    logits.scatter_(1, choice.unsqueeze(1), 0.3)
    noise = gumbel(logits.shape, logits.device, generator(2))
    mask, _ = weight_of_logits(torch.ones(8, 40), torch.zeros(8, 10), logits, noise, 500.0, 0.05)
    for n, g in np.ndindex(8, 10):
        assert mask[n, 4 * g : 4 * g + 4].nonzero().flatten().tolist() == list(
            KEPT_POSITIONS[int(choice[n, g])]
        )
        assert mask[n, 4 * g : 4 * g + 4].sum() == 2.0


@pytest.mark.parametrize(
    "shape, tile", [((5, 24), (2, 8)), ((4, 8), (4, 8)), ((7, 20), (16, 12)), ((7, 20), (2, WHOLE))]
)
def test_tiles_spread_as_their_map_expands(shape: tuple[int, int], tile: tuple[int, int]) -> None:
    grid = torch.rand(grid_shape(shape, tile), generator=generator())
    expected = expand_tiles(grid.numpy() > 0.5, shape, tile)
    np.testing.assert_array_equal(spread_tiles(grid, shape, tile).numpy() > 0.5, expected)


def test_dense_share_is_drawn_as_gumbel_softmax_over_two() -> None:
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


def test_bfloat16_weights_keep_their_dtype_and_autocast_does_not_touch_the_mask() -> None:
    weight, dense, logits, noise = drawn(4, 6, 8)
    expected, _ = weight_of_logits(weight, dense, logits, noise.clone(), 90.0, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        masked, _ = weight_of_logits(weight, dense, logits, noise.clone(), 90.0, 2.0)
        small, _ = weight_of_logits(weight.bfloat16(), dense, logits, noise.clone(), 90.0, 2.0)
    assert torch.equal(masked, expected)
    assert small.dtype is torch.bfloat16
    torch.testing.assert_close(small.float(), expected, rtol=2e-2, atol=1e-3)
