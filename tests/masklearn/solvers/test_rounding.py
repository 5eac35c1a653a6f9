"""Rounded weights lie on a grid, keep the mask, and lose less than nearest integers do."""

import itertools

import numpy as np
import pytest
import torch

from masklearn.feed import Group
from masklearn.quant.table import INT4, INT8, QUANTISED, WeightType
from masklearn.solvers.rounding import Rounded, round_group, round_nearest
from tests.masklearn.solvers.problems import output_error, problem
from tests.masklearn.threads import with_one_and_two_threads
from tests.refusals import refused

TYPES = list(QUANTISED.values())


def mask(n: int, k: int) -> torch.Tensor:
    """2:4 in the first half of the columns."""
    kept = torch.ones(n, k, dtype=torch.bool)
    kept[:, : k // 2] = (torch.arange(k // 2) % 4 < 2)[None]
    return kept


def rounded(
    weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor, kind: WeightType, damping: float = 0.01
) -> Rounded:
    group = Group({"linear": weight}, hessian, 600, 600)
    found = {"linear": (weight * kept, kept)}
    return round_group(group, found, {"linear": kind}, damping, pytest.fail)["linear"]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_integers_are_recovered_from_every_type_of_checkpoint(kind: WeightType, dtype: torch.dtype) -> None:
    weight, hessian = problem(n=40, k=192)
    weight *= torch.logspace(-7.5, 1, 40)[:, None]  # the smallest are not normal numbers of float16
    weight = weight.to(dtype).float()
    kept = mask(40, 192)
    for one in (rounded(weight, hessian, kept, kind), round_nearest(weight, kept, kind)):
        assert bool((one.values[~kept] == 0).all())
        stored = one.values.to(dtype)
        array = (
            stored.view(torch.int16).numpy().view("bfloat16") if dtype is torch.bfloat16 else stored.numpy()
        )
        integers = one.grid.integers(array)
        assert integers.min() >= kind.lowest and integers.max() <= kind.highest
        assert len(np.unique(integers)) > 10
        np.testing.assert_array_equal(one.grid.values(integers, np.dtype(np.float32)), one.values.numpy())


@pytest.mark.parametrize("size", [1.0, 1e7])
def test_int8_scales_are_16_bit_where_possible(size: float) -> None:
    """Other programs keep scales in the type of the weights."""
    weight, hessian = problem(n=8, k=64)
    kept = mask(8, 64)
    for one in (rounded(size * weight, hessian, kept, INT8), round_nearest(size * weight, kept, INT8)):
        scales = torch.from_numpy(one.grid.scales)
        assert bool(torch.isfinite(scales).all())
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.equal(scales.to(dtype).float(), scales) == (size == 1.0)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_it_loses_less_than_nearest_integers(kind: WeightType) -> None:
    """The margin fails if the feedback has a wrong sign, or the descent or the search of scales does nothing."""
    weight, hessian = problem(n=24, k=320, tokens=900)
    kept = mask(24, 320)
    pruned = weight * kept
    near, best = round_nearest(weight, kept, kind), rounded(pruned, hessian, kept, kind)
    assert output_error(pruned, best.values, hessian) < 0.6 * output_error(pruned, near.values, hessian)


def test_int4_scales_take_the_better_sign() -> None:
    """Weights from -3.5 to 4 lie on a grid whose lowest integer stands for 4."""
    _, hessian = problem(n=4, k=128)
    integers = torch.randint(-8, 8, (4, 128), generator=torch.Generator().manual_seed(1)).float()
    integers[:, ::64] = -8.0
    weight = integers * torch.tensor([0.5, -0.5, 0.5, -0.5])[:, None]
    kept = torch.ones(4, 128, dtype=torch.bool)
    for one in (rounded(weight, hessian, kept, INT4), round_nearest(weight, kept, INT4)):
        assert torch.equal(one.values, weight)
        assert one.grid.scales.tolist() == [[0.5, 0.5], [-0.5, -0.5]] * 2


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_rows_that_hold_little_or_much(kind: WeightType) -> None:
    """A row of zeros, a row of one outlier, and a row that float16 rounds to 0."""
    weight, hessian = problem(n=4, k=128)
    weight[0] = 0.0
    weight[1] = 1e-3
    weight[1, 5] = 100.0
    weight[2] = 1e-9
    kept = torch.ones(4, 128, dtype=torch.bool)
    for one in (rounded(weight, hessian, kept, kind), round_nearest(weight, kept, kind)):
        assert bool((one.values[0] == 0).all()) and not one.grid.scales[0].any()
        assert abs(float(one.values[1, 5]) - 100.0) < 10.0
        assert bool(one.values.isfinite().all())
        one.grid.integers(one.values.numpy().astype(np.float16))


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_inputs_that_are_0_leave_nearest_integers(kind: WeightType) -> None:
    weight, _ = problem(n=4, k=128)
    kept = torch.ones(4, 128, dtype=torch.bool)
    found = rounded(weight, torch.zeros(128, 128), kept, kind)
    assert float((found.values - weight).abs().max()) < float(weight.abs().max()) / kind.highest


def test_weights_beyond_the_scales_are_named() -> None:
    """bfloat16 holds larger weights than a scale of int4, which float16 holds too, times 7."""
    weight, hessian = problem(n=4, k=128)
    weight[2, 7] = 1e6
    kept = torch.ones(4, 128, dtype=torch.bool)
    with refused():
        rounded(weight, hessian, kept, INT4)
    assert float(rounded(weight, hessian, kept, INT8).values[2, 7]) > 9e5


def test_linears_of_a_group_keep_their_types() -> None:
    weight, hessian = problem(n=30, k=128)
    kept = mask(30, 128)
    names = {"a": slice(0, 8), "b": slice(8, 18), "c": slice(18, 30)}
    types = {"a": INT4, "b": INT8, "c": INT4}
    group = Group({name: weight[rows] for name, rows in names.items()}, hessian, 600, 600)
    found = {name: (weight[rows] * kept[rows], kept[rows]) for name, rows in names.items()}
    together = round_group(group, found, types, 0.01, pytest.fail)
    for name, rows in names.items():
        alone = rounded(weight[rows], hessian, kept[rows], types[name])
        assert together[name].grid.type is types[name]
        torch.testing.assert_close(together[name].values, alone.values)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_thread_count_does_not_change_bytes(kind: WeightType) -> None:
    weight, hessian = problem(n=1100, k=128)  # more than one part
    kept = mask(1100, 128)
    found = with_one_and_two_threads(lambda: rounded(weight, hessian, kept, kind))
    assert torch.equal(found[0].values, found[1].values)
    np.testing.assert_array_equal(found[0].grid.scales, found[1].grid.scales)


def test_no_single_integer_could_be_better() -> None:
    """The descent ends where few changes of one integer help, and none by much."""
    weight, hessian = problem(n=3, k=64, tokens=400)
    kept = mask(3, 64)
    found = rounded(weight, hessian, kept, INT4)
    least = output_error(weight, found.values, hessian)
    for row, column, step in itertools.product(range(3), range(64), (-1, 1)):
        scale = found.grid.scales[row, 0]
        changed = found.values.clone()
        changed[row, column] += step * float(scale)
        if kept[row, column] and abs(changed[row, column]) <= INT4.highest * scale:
            assert output_error(weight, changed, hessian) > 0.98 * least
