"""int8 and int4 weights: packed and unpacked, and computed by the function's body."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4, INT8
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.function import Epilogue
from patch_compile.packing.index import gated_panels, stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised, unpack_quantised
from tests.mosaics import IN_16_BITS, mosaic, random_grid, random_mask
from tests.packing.test_function import HALF_ULP, activated, one_linear, run
from tests.refusals import refused

HALF, BFLOAT = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
types = pytest.mark.parametrize("weights", [INT8, INT4], ids=str)
dtypes = pytest.mark.parametrize("dtype", [HALF, BFLOAT], ids=["fp16", "bf16"])


def linear(shape, weights, dtype, seed, kinds=IN_16_BITS, tile=(64, 64)):
    """A weight on a random grid, its integers, and a random mask."""
    integers, grid = random_grid(shape, weights, seed)
    return (
        grid.values(integers, dtype),
        integers,
        Quantised.of(grid.values(integers, dtype), mosaic(shape, tile, seed, kinds), grid),
    )


@types
@dtypes
@settings(max_examples=8)
@given(
    st.integers(1, 200),
    st.integers(1, 5),
    st.sampled_from([(64, 64), (128, 128), (32, 192), (100, 64)]),
    st.integers(0, 999),
)
def test_unpack_gives_the_integers_and_the_scales(weights, dtype, rows, slabs, tile, seed):
    shape = rows, 64 * slabs
    weight, integers, one = linear(shape, weights, dtype, seed, tile=tile)
    panels = stacked_panels([rows], 64)
    packed = pack_quantised([one], panels, dtype)
    found, scales = unpack_quantised(packed, dtype)
    kept = np.where(one.mask.keep(), integers, 0)
    np.testing.assert_array_equal(found[:rows], kept)
    np.testing.assert_array_equal(scales[:rows], one.grid.scales)
    assert not found[rows:].any() and not scales[rows:].any()
    check_packed("linear", packed, weight, one.mask, panels[0])


@settings(max_examples=8)
@given(st.integers(1, 150), st.integers(1, 60).map(lambda groups: groups * 4), st.integers(0, 999))
def test_int8_takes_every_k_that_16_bits_take(rows, columns, seed):
    integers, grid = random_grid((rows, columns), INT8, seed)
    mask = random_mask((rows, columns), (32, 20), 0.5, seed)[0]
    one = Quantised.of(grid.values(integers, HALF), mask, grid)
    found, _ = unpack_quantised(pack_quantised([one], stacked_panels([rows], 64), HALF), HALF)
    np.testing.assert_array_equal(found[:rows], np.where(one.mask.keep(), integers, 0))


@types
@dtypes
def test_integers_match_the_grid_in_all_types(weights, dtype):
    """Every integer, subnormal scales, and a scale of 0. fp32 takes another path than 16 bits."""
    shape = (64, 256)
    integers, grid = random_grid(shape, weights, 5)
    scales = grid.scales.copy()
    scales.flat[:3] = 0, 2.0**-24, 2.0**-17
    if weights is INT4:
        integers[0, :64] = 0
    else:
        integers[0] = 0
        integers[1] = np.sign(integers[1])
    grid = Grid(weights, scales)
    for of_file in (dtype, np.dtype(np.float32)):
        stored = grid.values(integers, of_file)
        one = Quantised.of(stored, mosaic(shape, (64, 64), 1, (DENSE,)), grid)
        np.testing.assert_array_equal(grid.values(one.integers.astype(np.int8), of_file), stored)
        np.testing.assert_array_equal(one.integers, grid.integers(stored))
        packed = pack_quantised([one], stacked_panels([1], 64), dtype)
        check_packed("linear", packed, one.values(dtype), one.mask)


@types
@dtypes
@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(),
        Epilogue(True, "gelu", False, True),
        Epilogue(False, "silu", True),
        Epilogue(True, "silu", True, True),
    ],
    ids=lambda epilogue: epilogue.overload or "plain",
)
def test_the_body_multiplies_grid_values(weights, dtype, epilogue):
    shape = (152, 960 if epilogue.gated else 320)  # tiles of a gate and of its up differ, mostly
    made = [linear(shape, weights, dtype, 5 + seed)[2] for seed in range(1 + epilogue.gated)]
    panels = gated_panels(shape[0], 64) if epilogue.gated else stacked_panels(shape[:1], 64)
    packed = pack_quantised(made, panels, dtype)
    assert len(packed.others) == 2 and packed.dense.size and packed.sparse.size
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 5, shape[1])).astype(dtype)
    biases = [rng.standard_normal(shape[0]).astype(dtype) for _ in made]
    residual = rng.standard_normal((1, 5, shape[0])).astype(dtype)
    model = one_linear(
        packed,
        dtype.type,
        np.concatenate(biases) if epilogue.bias else None,
        epilogue=epilogue,
        out_features=shape[0],
    )
    y = run(model, x, dtype.type, residual if epilogue.residual else None).astype(np.float64)
    products, slack = [], 0.0
    for one, bias in zip(made, biases, strict=True):
        if weights is INT8:  # the scale multiplies the sum
            w = one.integers.astype(np.float64) * one.grid.scales[:, None]
        else:
            w = one.values(dtype).astype(np.float64)
        products.append(x.astype(np.float64) @ w.T + epilogue.bias * bias.astype(np.float64))
        slack = slack + 3 * shape[1] * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(w).T + 1)
    exact = activated(epilogue.activation, products[0])
    if epilogue.gated:
        exact, slack = exact * products[1], slack * (1 + np.abs(exact) + np.abs(products[1]))
    exact = exact + epilogue.residual * residual.astype(np.float64)
    bound = HALF_ULP[dtype.type] * np.abs(exact) + slack
    assert (np.abs(y - exact) <= bound).all()


@types
def test_every_changed_word_is_found(weights):
    """An integer, a scale of int4, a scale of int8."""
    weight, _, one = linear((64, 128), weights, HALF, 7, (DENSE, *KINDS[2:4]))
    packed = pack_quantised([one], stacked_panels([1], 64), HALF)
    tensors = [packed.dense, *(other.values for other in packed.others)]
    tensors += [packed.scales] if packed.scales is not None else []
    for tensor in tensors:
        if not tensor.size:
            continue
        for at in (0, tensor.size // 2, tensor.size - 1):
            before = tensor.flat[at]
            tensor.flat[at] = before * 2 if tensor.dtype == np.float32 else before ^ 4
            with refused(InvariantError):
                check_packed("linear", packed, weight, one.mask)
            tensor.flat[at] = before
    check_packed("linear", packed, weight, one.mask)


@types
def test_a_weight_off_its_grid_is_refused(weights):
    weight, _, one = linear((64, 128), weights, HALF, 7)
    row, column = np.argwhere(one.integers != 0)[5]
    weight[row, column] = np.nextafter(weight[row, column], np.float16(np.inf))
    with refused(ValueError):
        Quantised.of(weight, one.mask, one.grid)


def test_pruned_weights_may_leave_the_grid():
    weight, _, one = linear((64, 128), INT8, HALF, 7, (TWO_FOUR, *KINDS[2:4]))
    weight[~one.mask.keep()] = 0.123
    np.testing.assert_array_equal(
        np.where(one.mask.keep(), Quantised.of(weight, one.mask, one.grid).integers, 0),
        np.where(one.mask.keep(), one.integers, 0),
    )


def test_what_can_not_be_packed_is_refused():
    one = linear((64, 128), INT8, HALF, 1)[2]
    other = linear((64, 128), INT4, HALF, 1)[2]
    with refused(ValueError):
        pack_quantised([one, other], gated_panels(64, 64), HALF)
    with refused(ValueError):
        Quantised.of(np.zeros((64, 100), np.float16), random_mask((64, 100), (64, 4), 0.5, 1)[0], other.grid)
    with refused(ValueError):
        Quantised.of(np.zeros((32, 128), np.float16), random_mask((32, 128), (64, 64), 0.5, 1)[0], one.grid)


@types
@pytest.mark.parametrize(("kinds", "per_weight"), [((DENSE,), (1, 0.53125)), ((TWO_FOUR,), (0.625, 0.40625))])
def test_bytes_are_those_of_the_table(weights, kinds, per_weight):
    shape = (256, 512)
    packed = pack_quantised([linear(shape, weights, HALF, 1, kinds)[2]], stacked_panels([256], 64), HALF)
    stored = packed.nbytes - packed.index.nbytes - (4 * shape[0] if weights is INT8 else 0)
    assert stored == per_weight[weights is INT4] * shape[0] * shape[1]
    assert stored == kinds[0].bytes_of(weights) * shape[0] * shape[1]
