"""Kernels run by host fibers with every check on; results lie within the error bound of float64."""

import itertools

import numpy as np
import pytest

from tests.oracles.element_packing import KEPT, pack_slabs
from tests.plugins.configs import ALL, BYTE_STREAMS, BYTES, CONFIGS, INTEGERS, STREAMS, case_for
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, make_case, without_panels
from tests.refusals import refused

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

TOKENS = (*range(1, 18), 31, 32, 33, 64, 100, 128, 129, 300)


def run(kernel, case, config, dtype, **how):
    number = list(kernel.configs()).index(config)
    launch = Launch(number, scalar=DTYPES.index(dtype), **how)
    return kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue), launch.stats


def check(kernel, case, config, dtype, **how):
    y, stats = run(kernel, case, config, dtype, **how)
    assert case.worst(y) <= 1, how
    if case.bits is not None:
        np.testing.assert_array_equal(y, case.bits, str(how))
    assert stats.ldmatrix_waves == 4 * stats.ldmatrix, "ldmatrix has bank conflicts"
    return y


def kernel_for(config, request):
    name = "byte_kernel" if config in BYTES else "integer_kernel" if config in INTEGERS else "kernel"
    return request.getfixturevalue(name)


def activation_of(config, turn):
    """An activation for each turn; w8a8 gets none, and so has exact bits."""
    return "" if config in BYTES else list(ACTIVATIONS)[turn % 4]


def test_the_table_of_configurations_is_the_one_tested(kernel):
    assert tuple(kernel.configs()) == ALL
    assert tuple(name for name, config in kernel.configs().items() if config.weights) == INTEGERS + BYTES
    found = {name: config for name, config in kernel.configs().items() if not config.weights}
    assert tuple(name for name, config in found.items() if config.streams) == STREAMS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS + BYTES)
def test_every_number_of_tokens(request, config, dtype):
    kernel = kernel_for(config, request)
    panel_rows = kernel.configs()[config].panel_rows
    # The types differ only in conversions and products.
    for tokens in TOKENS if dtype == DTYPES[0] else TOKENS[::4]:
        rng = np.random.default_rng(tokens)
        shape = int(rng.integers(1, 2 * panel_rows + 40)), 4 * int(rng.integers(1, 100))
        case = case_for(
            kernel, config, tokens, shape, gated=tokens % 3 == 1, dtype=dtype, share=float(rng.random()),
            bias=bool(tokens % 3), residual=tokens % 5 < 2, activation=activation_of(config, tokens), seed=tokens,
        )  # fmt: skip
        how = {"parts": 1 + tokens % 7, "mode": CopyMode(tokens % 3), "seed": tokens}
        check(kernel, case, config, dtype, **how)


@pytest.mark.parametrize("config", ALL)
def test_every_ring_position(request, config):
    """K has 1 to 17 slabs, twice the slots of the longest ring and one more; rows and columns are ragged."""
    kernel = kernel_for(config, request)
    rows = kernel.configs()[config].panel_rows
    for slabs in range(1, 18):
        shape, dtype = (rows - slabs % 5, slabs * 64 - 4 * (slabs % 3)), DTYPES[slabs % 2]
        how = {"gated": slabs % 3 == 0, "activation": activation_of(config, slabs), "seed": slabs}
        case = case_for(kernel, config, (5, 70)[slabs % 2], shape, dtype=dtype, share=0.7, **how)
        check(kernel, case, config, dtype, parts=1 + slabs % 4, mode=CopyMode(slabs % 3), seed=slabs)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(
    "config", [*(pytest.param(config, marks=pytest.mark.quick) for config in CONFIGS), *BYTES]
)
def test_all_dense_and_all_sparse(request, config, share):
    """One of the two packed tensors has no rows."""
    kernel = kernel_for(config, request)
    panel_rows = kernel.configs()[config].panel_rows
    for parts, gated in ((1, False), (3, False), (2, True)):
        case = case_for(kernel, config, 17, (panel_rows + 8, 448), gated=gated, share=share, seed=3)
        assert 0 in (len(case.packed.dense), len(case.packed.sparse))
        check(kernel, case, config, DTYPES[0], parts=parts)


@pytest.mark.parametrize("kind", range(2, len(KEPT)), ids=lambda kind: f"{KEPT[kind]}:16")
@pytest.mark.parametrize("config", [name for name in CONFIGS if name.startswith("all-")])
def test_a_kind_alone(kernel, config, kind):
    """With all slabs of the kind, and among dense slabs."""
    for share, parts in ((1.0, 1), (1.0, 5), (0.6, 3)):
        dtype = DTYPES[kind % 2]
        case = case_for(kernel, config, 19, (130, 520), dtype=dtype, share=share, only=kind, seed=kind)
        assert len(case.packed.dense) == 0 if share == 1 else len(case.packed.dense) > 0
        check(kernel, case, config, dtype, parts=parts, mode=CopyMode(parts % 3), seed=parts)


@pytest.mark.parametrize("columns", [4, 8, 60, 64, 68, 124, 132])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6, 7, 63, 64, 65, 72, 100, 129])
def test_ragged_weights(request, rows, columns):
    """Shapes need every store width of Y, both copy widths of X and both ways to read the residual."""
    configs = ("decode-64", "decode-128", "w8a8-decode-64", "w8a8-prefill-64")
    for config, gated in itertools.product(configs, (False, True)):
        kernel = kernel_for(config, request)
        how = {"gated": gated, "dtype": DTYPES[1], "residual": True, "seed": rows * columns}
        case = case_for(kernel, config, 3, (rows, columns), **how)
        for parts in (1, 2):
            check(kernel, case, config, DTYPES[1], parts=parts)


@pytest.mark.parametrize(
    "offsets",
    [{"x": 8}, {"y": 8}, {"y": 4}, {"y": 2}, {"residual": 4}, {"residual": 2}, {"bias": 2}],
    ids=lambda offsets: "-".join(f"{name}{bytes}" for name, bytes in offsets.items()),
)
def test_tensors_of_less_alignment(request, offsets):
    """Whole rows of 16 bytes in tensors that do not begin at a multiple of 16 bytes: views of others, say."""
    configs = ("decode-64", "prefill-64", "w8a8-decode-64", "w8a8-prefill-64")
    for config, gated in itertools.product(configs, (False, True)):
        kernel = kernel_for(config, request)
        case = case_for(kernel, config, 20, (72, 136), gated=gated, residual=True, seed=2)
        for parts in (1, 3):
            check(kernel, case, config, DTYPES[0], parts=parts, offsets=offsets)


@pytest.mark.parametrize("offsets", [{"x": 4}, {"dense": 8}, {"sparse": 8}, {"meta": 8}, {"y": 1}])
def test_tensors_of_too_little_alignment_are_refused(kernel, offsets):
    case = case_for(kernel, "decode-64", 5, (72, 136))
    with refused(RuntimeError):
        check(kernel, case, "decode-64", DTYPES[0], offsets=offsets)


@pytest.mark.parametrize("config", STREAMS + BYTE_STREAMS)
def test_every_number_of_parts(request, config):
    """Parts hold many tiles, share one with a neighbour, lie inside one, or are as narrow as a slab."""
    kernel, number = kernel_for(config, request), ALL.index(config)
    for tokens in (7, 100):
        case = case_for(kernel, config, tokens, (300, 452), gated=tokens == 100, activation="", seed=tokens)
        most = kernel.parts(case.packed, tokens, Launch(number, parts=10**6))
        for parts in sorted({*range(1, 12), most // 3, most // 2, most - 1, most}):
            check(kernel, case, config, DTYPES[0], parts=parts, mode=CopyMode(parts % 3), seed=parts)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("config", CONFIGS + BYTES)
def test_every_epilogue(request, config, activation, residual, gated):
    """One type with a bias in one part, the other without in five; which, depends on the residual."""
    kernel = kernel_for(config, request)
    for dtype, parts in zip(DTYPES, (5, 1) if residual else (1, 5), strict=True):
        how = {"bias": parts == 1, "activation": activation, "residual": residual, "gated": gated}
        case = case_for(kernel, config, 21, (150, 324), dtype=dtype, seed=parts, **how)
        check(kernel, case, config, dtype, parts=parts, seed=parts)


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a])
def test_activations_far_out(kernel, activation):
    """One weight and one input give each Z: -60000 to 60000, both tails, infinities and a NaN."""
    z = np.concatenate(
        [np.linspace(-12, 12, 97), [-6e4, -300.0, -90.0, -88.0, 88.0, 90.0, 300.0, 6e4, np.inf, np.nan]]
    ).astype(np.float16)
    case = make_case(len(z), (1, 4), 64, share=0, bias=False, activation=activation, seed=1)
    one = np.zeros((1, 4), np.float16)
    one[0, 0] = 1
    x = np.zeros((len(z), 4), np.float16)
    x[:, 0] = z
    packed = pack_slabs(one.view(np.uint16), np.zeros((1, 1), bool), 64)
    launch = Launch(CONFIGS.index("decode-64"))
    y = kernel.run(packed, x.view(np.uint16), None, launch, activation=case.activation).view(np.float16)[:, 0]
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[activation](z.astype(np.float64))
    finite = np.isfinite(expected)
    error = np.abs(y[finite] - expected[finite])
    assert (error <= 2.0**-11 * np.abs(expected[finite]) + 2.0**-20 * np.maximum(1, np.abs(z[finite]))).all()
    assert y[-2] == np.inf and np.isnan(y[-1])


@pytest.mark.parametrize("config", STREAMS + INTEGERS + BYTE_STREAMS)
def test_empty_panels(request, config):
    """Y is the bias in panels without a slab; the first and the last are among them. Parts are as narrow as a dense slab."""
    kernel = kernel_for(config, request)
    rows = kernel.configs()[config].panel_rows
    case = case_for(kernel, config, 20, (5 * rows, 260), share=0.6, seed=9)
    keep = np.repeat([False, True, False, True, False], rows)
    emptied = without_panels(case, keep)
    for parts in (1, 2, 3, 5, 8, 30):
        y = check(kernel, emptied, config, DTYPES[0], parts=parts, seed=parts)
        assert (y[:, ~keep] == emptied.bias[~keep]).all()


@pytest.mark.parametrize("config", ["decode-64", "int8-decode-64"])
def test_block_order_does_not_change_results(request, config):
    """Sums of parts are added in one order, of int8 before they are scaled."""
    kernel = kernel_for(config, request)
    case = case_for(kernel, config, 33, (150, 900), seed=8)
    runs = [
        check(kernel, case, config, DTYPES[0], parts=11, seed=seed, mode=mode)
        for seed in range(4)
        for mode in CopyMode
    ]
    assert all((y == runs[0]).all() for y in runs)


def test_nan_rows_beyond_tokens_stay_untouched(kernel):
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
