"""Grids of quantised linears: values and integers are each other's inverse in every floating-point type."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from masklearn.quant.grid import Grid, storable
from masklearn.quant.table import FLOAT16, INT4, INT8, QUANTISED, WEIGHT_TYPES, WeightType, weight_type
from tests.refusals import refused

DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)]


def all_integers(of: WeightType, shape: tuple[int, int], seed: int) -> NDArray[np.int8]:
    return np.random.default_rng(seed).integers(of.lowest, of.highest + 1, shape).astype(np.int8)


def grid(of: WeightType, shape: tuple[int, int], seed: int) -> Grid:
    """Scales of all sizes that weights have, and of both signs."""
    random = np.random.default_rng(seed)
    scales = np.exp(random.uniform(-9, 2, of.scales_shape(shape))).astype(np.float32)
    scales *= random.choice([-1, 1], scales.shape).astype(np.float32)
    return Grid(of, storable(scales) if of.span else scales)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of", QUANTISED.values(), ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_integers_are_the_inverse_of_values(of: WeightType, dtype: np.dtype[Any], seed: int) -> None:
    shape = (48, 192)
    made, integers = grid(of, shape, seed), all_integers(of, shape, seed)
    np.testing.assert_array_equal(made.integers(made.values(integers, dtype)), integers)


@pytest.mark.parametrize("of", QUANTISED.values(), ids=str)
def test_tiny_float16_weights_come_back_equal(of: WeightType) -> None:
    """Several integers may round to one weight: then any of them is right."""
    shape = (8, 64)
    made = Grid(of, np.full(of.scales_shape(shape), 2.0**-24 if of.span else 3e-9, np.float32))
    values = made.values(all_integers(of, shape, 0), np.dtype(np.float16))
    np.testing.assert_array_equal(made.values(made.integers(values), values.dtype), values)


@pytest.mark.parametrize("of", QUANTISED.values(), ids=str)
def test_a_value_is_the_product_rounded_once(of: WeightType) -> None:
    shape = (4, 128)
    made, integers = grid(of, shape, 1), all_integers(of, shape, 2)
    scales = made.scales[:, None] if of.span is None else np.repeat(made.scales, of.span, axis=1)
    exact = integers.astype(np.float64) * scales.astype(np.float64)
    found = made.values(integers, np.dtype(np.float16))
    if of is INT4:  # its products are exact in fp32
        np.testing.assert_array_equal(found, exact.astype(np.float16))
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2**-11, atol=2**-25)


def test_rows_of_zeros_have_scale_zero() -> None:
    made = Grid(INT8, np.asarray([0, 1], np.float32))
    weight = np.asarray([[0, -0.0], [3, -128]], np.float32)
    assert made.integers(weight).tolist() == [[0, 0], [3, -128]]
    with refused(ValueError):
        made.integers(np.asarray([[0, 1], [0, 0]], np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_negative_scales_make_no_negative_zeros(dtype: np.dtype[Any]) -> None:
    made = Grid(INT4, np.full((1, 1), -0.5, np.float32))
    integers = np.zeros((1, 64), np.int8)
    integers[0, :2] = INT4.lowest, INT4.highest
    values = made.values(integers, dtype)
    assert values[0, :3].astype(np.float64).tolist() == [4.0, -3.5, 0.0]
    assert not np.signbit(values.astype(np.float32)[0, 2:]).any()
    values[0, 3] = -0.0  # as other programs write it
    np.testing.assert_array_equal(made.integers(values), integers)
    values[0, 0] = -4.0
    with refused(ValueError):
        made.integers(values)


@pytest.mark.parametrize("wrong", [0.5, 128.0, np.nan, np.inf, -129.0])
def test_weights_off_the_grid_are_named(wrong: float) -> None:
    made = Grid(INT8, np.ones(2, np.float32))
    with refused(ValueError):
        made.integers(np.asarray([[0, 1, 2], [3, 4, wrong]], np.float32))


@given(st.floats(-65280, 65280, width=32))
def test_storable_numbers_are_exact_in_both_types(scale: float) -> None:
    (found,) = storable(np.asarray([scale], np.float32))
    assert found.astype(np.float16) == found == found.astype(ml_dtypes.bfloat16)
    assert (found == 0) == (scale == 0)
    assert np.sign(found) == np.sign(scale)
    assert abs(float(found) - scale) <= max(abs(scale) * 2**-8, 2.0**-24)
    assert storable(found[None])[0] == found


def test_scales_beyond_float16_become_the_largest() -> None:
    assert storable(np.asarray([1e30, -1e30], np.float32)).tolist() == [65280.0, -65280.0]


@pytest.mark.parametrize(
    ("of", "scales"),
    [
        pytest.param(FLOAT16, np.ones(2, np.float32), id="float16 has no scales"),
        pytest.param(INT8, np.ones((2, 1), np.float32), id="scales float32 [2, 1] of int8"),
        pytest.param(INT8, np.ones(2, np.float64), id="scales float64 [2] of int8"),
        pytest.param(INT8, np.asarray([1, -np.inf], np.float32), id="a scale is not finite"),
        pytest.param(INT8, np.asarray([1, np.nan], np.float32), id="a scale is not finite"),
        pytest.param(INT4, np.full((2, 2), 0.1, np.float32), id="numbers of neither float16 nor bfloat16"),
    ],
)
def test_other_scales_are_refused(of: WeightType, scales: Any) -> None:
    with refused(ValueError):
        Grid(of, scales)


def test_scales_fit_graphs_of_their_type() -> None:
    for scale, of16, brain in ((0.125, True, True), (1 + 2**-10, True, False), (2.0**-30, False, True)):
        made = Grid(INT4, np.full((2, 2), scale, np.float32))
        assert (made.fits("float16"), made.fits("bfloat16")) == (of16, brain)
    with refused(ValueError):
        Grid(INT4, np.asarray([[1 + 2**-10, 2.0**-30]], np.float32))
    assert Grid(INT8, np.full(2, 0.1, np.float32)).fits("float16")


def test_scales_of_another_weight_are_refused() -> None:
    with refused(ValueError):
        Grid(INT8, np.ones(2, np.float32)).integers(np.zeros((3, 4), np.float32))
    with refused(ValueError):
        INT4.scales_shape((4, 96))


def test_table() -> None:
    ranges = {one.name: (one.lowest, one.highest) for one in QUANTISED.values()}
    assert ranges == {"int8": (-128, 127), "w8a8": (-128, 127), "int4": (-8, 7)}
    assert [one.scale_bytes for one in WEIGHT_TYPES.values()] == [0, 0, 0, 0, 1 / 32]
    assert weight_type("int4") is INT4
    with refused(ValueError):
        weight_type("fp8")
