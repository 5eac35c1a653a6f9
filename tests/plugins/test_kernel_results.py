"""The kernel, run by host fibers with every check on, against float64 within its error bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch_compile.packing import pack
from tests.mosaics import masked_by_hand, random_mask, random_weight, shapes, tile_sizes
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch
from tests.plugins.mosaic_cases import DTYPES, make_case, without_panels
from tests.plugins.oracle_packing import Packed

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

STREAMS = ("decode-64", "mid-64", "decode-128", "mid-128")
CONFIGS = ("decode-64", "mid-64", "prefill-64", "decode-128", "mid-128", "prefill-128")
TOKENS = (*range(1, 41), 64, 100, 128, 129, 300)


def run(kernel, case, config, dtype, **how):
    number = list(kernel.configs()).index(config)
    launch = Launch(number, scalar=DTYPES.index(dtype), **how)
    return kernel.run(case.packed, case.x, case.bias, launch), launch.stats


def check(kernel, case, config, dtype, **how):
    y, stats = run(kernel, case, config, dtype, **how)
    assert case.worst(y) <= 1, how
    assert stats.ldmatrix_waves == 4 * stats.ldmatrix, "ldmatrix has bank conflicts"
    return y


def test_the_table_of_configurations_is_the_one_tested(kernel):
    assert tuple(kernel.configs()) == CONFIGS
    assert tuple(name for name, config in kernel.configs().items() if config.streams) == STREAMS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_of_tokens(kernel, config, dtype):
    panel_rows = kernel.configs()[config][0]
    for tokens in TOKENS:
        rng = np.random.default_rng(tokens)
        shape = int(rng.integers(1, 2 * panel_rows + 40)), 4 * int(rng.integers(1, 100))
        bias, share = bool(tokens % 3), float(rng.random())
        case = make_case(tokens, shape, panel_rows, dtype=dtype, share=share, bias=bias, seed=tokens)
        how = {"parts": 1 + tokens % 7, "mode": CopyMode(tokens % 3), "seed": tokens}
        check(kernel, case, config, dtype, **how)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_ring_position(kernel, config):
    """K from 1 to 10 slabs: slabs modulo stages takes every value, with fewer slabs than stages among them."""
    panel_rows = kernel.configs()[config][0]
    for slabs in range(1, 11):
        for mode in CopyMode:
            case = make_case(5, (panel_rows, slabs * 64 - 4 * (slabs % 3)), panel_rows, seed=slabs)
            check(kernel, case, config, DTYPES[0], mode=mode, seed=slabs)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("config", CONFIGS)
def test_all_dense_and_all_sparse(kernel, config, share):
    """One of the two packed tensors has no rows."""
    panel_rows = kernel.configs()[config][0]
    case = make_case(17, (panel_rows + 8, 448), panel_rows, share=share, seed=3)
    assert 0 in (len(case.packed.dense), len(case.packed.sparse))
    for parts in (1, 3):
        check(kernel, case, config, DTYPES[0], parts=parts)


@pytest.mark.parametrize("columns", [4, 8, 60, 64, 68, 124, 132])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 63, 64, 65, 72, 100, 129])
def test_ragged_weights(kernel, rows, columns):
    """Every store width of Y and both copy widths of X."""
    for config in ("decode-64", "decode-128"):
        case = make_case(
            3, (rows, columns), kernel.configs()[config][0], dtype=DTYPES[1], seed=rows * columns
        )
        for parts in (1, 2):
            check(kernel, case, config, DTYPES[1], parts=parts)


@pytest.mark.parametrize("config", STREAMS)
def test_every_number_of_parts(kernel, config):
    """Parts that hold many tiles, share one with a neighbour, lie inside one, and are as narrow as a slab."""
    for tokens in (7, 100):
        case = make_case(tokens, (300, 452), kernel.configs()[config].panel_rows, seed=tokens)
        number = CONFIGS.index(config)
        most = kernel.parts(case.packed, tokens, Launch(number, parts=10**6))
        for parts in sorted({*range(1, 12), most // 3, most // 2, most - 1, most}):
            check(kernel, case, config, DTYPES[0], parts=parts, mode=CopyMode(parts % 3), seed=parts)


@pytest.mark.parametrize("config", STREAMS)
def test_empty_panels(kernel, config):
    """Panels without a slab, among them the first and the last: Y there is the bias."""
    rows = kernel.configs()[config].panel_rows
    case = make_case(5, (5 * rows, 256), rows, share=0.5, seed=9)
    keep = np.repeat([False, True, False, True, False], rows)
    emptied = without_panels(case, keep)
    for parts in (1, 2, 3, 5, 8):
        y = check(kernel, emptied, config, DTYPES[0], parts=parts, seed=parts)
        assert (y[:, ~keep] == emptied.bias[~keep]).all()


def test_results_repeat_bit_for_bit_in_any_order_of_blocks(kernel):
    case = make_case(33, (150, 900), 64, seed=8)
    runs = [
        check(kernel, case, "decode-64", DTYPES[0], parts=11, seed=seed, mode=mode)
        for seed in range(4)
        for mode in CopyMode
    ]
    assert all((y == runs[0]).all() for y in runs)


def test_rows_beyond_the_tokens_stay_untouched_by_a_nan(kernel):
    """A NaN in one token reaches that token's row of Y and no other."""
    case = make_case(20, (70, 132), 64, seed=2)
    case.x[7, 3] = 0x7E00
    y, _ = run(kernel, case, "decode-64", DTYPES[0])
    bad = np.isnan(y.view(np.float16)).any(1)
    assert bad.tolist() == [token == 7 for token in range(20)]


def test_overflow_becomes_infinity(kernel):
    case = make_case(1, (64, 64), 64, share=0, seed=4)
    case.x[...] = np.array(60000, np.float16).view(np.uint16)
    y, _ = run(kernel, case, "decode-64", DTYPES[0])
    big = np.abs(case.packed.dense.view(np.float16).astype(np.float64)).sum()
    assert big > 2 and np.isinf(y.view(np.float16)).any() and not np.isnan(y.view(np.float16)).any()


@settings(max_examples=40, deadline=None)
@given(
    shapes,
    tile_sizes,
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    st.sampled_from(CONFIGS),
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from(CopyMode),
    st.integers(0, 99),
)
def test_weights_packed_by_the_compiler(kernel, shape, tile, share, config, tokens, parts, mode, seed):
    """From W and a random tile map through `patch_compile.packing` to Y = X (W∘M)^T."""
    mask, pattern = random_mask(shape, tile, share, seed)
    weight = random_weight(shape, np.float16, seed)
    made = pack(weight.view(np.uint16), mask, kernel.configs()[config][0])
    packed = Packed(made.shape, made.panel_rows, made.dense, made.sparse, made.meta, made.index)
    x = np.random.default_rng(seed).standard_normal((tokens, shape[1])).astype(np.float16)
    w = masked_by_hand(weight, mask, pattern).astype(np.float64)
    launch = Launch(CONFIGS.index(config), parts=parts, mode=mode, seed=seed)
    y = kernel.run(packed, x.view(np.uint16), None, launch).view(np.float16)
    expected, magnitude = x.astype(np.float64) @ w.T, np.abs(x.astype(np.float64)) @ np.abs(w).T
    bound = (shape[1] + 32) * 2.0**-24 * magnitude * 1.01 + np.abs(expected) * 2.0**-11 + 2.0**-24
    assert (np.abs(y - expected) <= bound).all()
