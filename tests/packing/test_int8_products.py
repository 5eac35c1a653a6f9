"""w8a8: packed and unpacked, and computed by the function's body as the oracle computes it, bit for bit."""

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from masklearn.masks.kinds.table import DENSE, KINDS, PRUNED, TWO_FOUR
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8, W8A8
from patch_compile.errors import InvariantError
from patch_compile.packing.checks import check_packed
from patch_compile.packing.function import Epilogue
from patch_compile.packing.index import gated_panels, stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised, unpack_quantised
from patch_compile.packing.slab_kinds import numbers_of, slab_kinds
from tests.mosaics import mosaic, random_grid, random_mask
from tests.oracles import int8_products as oracle
from tests.oracles import integer_packing as packer
from tests.packing.test_function import activated, one_linear, run
from tests.refusals import refused

SIX_EIGHT = PRUNED["6:8"]
OF_W8A8 = (DENSE, TWO_FOUR, SIX_EIGHT)
HALF, BFLOAT = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
ROUNDING = {HALF: 2.0**-11, BFLOAT: 2.0**-8}
dtypes = pytest.mark.parametrize("dtype", [HALF, BFLOAT], ids=["fp16", "bf16"])
panels_of = pytest.mark.parametrize("panel_rows", [64, 128])


def linear(shape, dtype, seed, tile=(64, 64), share=0.5):
    """A weight on a random grid, under a random mask of dense and 2:4 tiles."""
    integers, grid = random_grid(shape, W8A8, seed)
    mask = random_mask(shape, tile, share, seed)[0]
    return Quantised.of(grid.values(integers, dtype), mask, grid)


def packed_linear(one, dtype, panel_rows=64):
    return pack_quantised([one], stacked_panels(one.mask.shape[:1], panel_rows), dtype, panel_rows)


def inputs(shape, dtype, seed=2):
    """Rows of many sizes."""
    rng = np.random.default_rng(seed)
    sizes = np.exp2(rng.integers(-12, 6, (*shape[:-1], 1)))
    return (rng.standard_normal(shape) * sizes).astype(dtype)


def expected(x, one):
    """The product, rounded to the type of X."""
    with np.errstate(over="ignore"):
        return oracle.product(x, one.integers.astype(np.int8), one.grid.scales).astype(x.dtype)


def check_equal(found, x, one):
    np.testing.assert_array_equal(found.astype(np.float32), expected(x, one).astype(np.float32))


def with_sums(model):
    """Returns the model with a second output, the int32 sums of the function's body."""
    model.functions[0].output.append("sums")
    model.graph.node[0].output.append("sums")
    model.graph.output.append(helper.make_tensor_value_info("sums", TensorProto.INT32, None))
    return model


@dtypes
@panels_of
@settings(max_examples=10)
@given(st.integers(1, 300), st.integers(1, 80), st.sampled_from([0.0, 0.4, 1.0]), st.integers(0, 999))
def test_unpack_inverts_pack(dtype, panel_rows, rows, groups, share, seed):
    one = linear((rows, 4 * groups), dtype, seed, (128, 64), share)
    packed = packed_linear(one, dtype, panel_rows)
    found, scales = unpack_quantised(packed, dtype)
    np.testing.assert_array_equal(found[:rows], one.integers)
    np.testing.assert_array_equal(scales[:rows], one.grid.scales)
    assert not found[rows:].any() and not scales[rows:].any()
    check_packed("linear", packed, one.values(dtype), one.mask)


@panels_of
@pytest.mark.parametrize(
    "kinds", [(DENSE,), (TWO_FOUR,), (SIX_EIGHT,), OF_W8A8], ids=["dense", "2:4", "6:8", "all"]
)
def test_slabs_equal_the_instructions_figures(panel_rows, kinds):
    shape = (256, 320)
    integers, grid = random_grid(shape, W8A8, 3)
    integers[integers == 0] = -128  # the oracle keeps zeros of its own choice
    one = Quantised.of(grid.values(integers, HALF), mosaic(shape, (128, 64), 1, kinds), grid)
    packed = packed_linear(one, HALF, panel_rows)
    other = packer.pack_integers(
        packer.Quantised(packer.W8A8, one.integers.astype(np.int8), grid.scales),
        numbers_of(slab_kinds(one.mask, panel_rows), OF_W8A8),
        None,
        panel_rows,
    )
    for name in ("dense", "sparse", "meta", "index", "scales"):
        np.testing.assert_array_equal(getattr(packed, name), getattr(other, name))
    for ours, theirs in zip(packed.others, other.others, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_array_equal(ours.codes, theirs.masks)


def test_every_changed_word_is_found():
    one = linear((128, 256), HALF, 7)
    packed = packed_linear(one, HALF)
    for tensor in (packed.dense, packed.sparse, packed.scales):
        for at in (0, tensor.size // 2, tensor.size - 1):
            before = tensor.flat[at]
            tensor.flat[at] = before * 2 if tensor.dtype == np.float32 else before ^ 4
            with refused(InvariantError):
                check_packed("linear", packed, one.values(HALF), one.mask)
            tensor.flat[at] = before
    for at in range(0, packed.meta.size, 97):
        before = packed.meta.flat[at]
        packed.meta.flat[at] = before ^ (1 << at % 31)
        with refused(InvariantError):
            check_packed("linear", packed, one.values(HALF), one.mask)
        packed.meta.flat[at] = before


def test_int8_has_no_panels_of_128():
    integers, grid = random_grid((128, 64), INT8, 1)
    of_int8 = Quantised.of(grid.values(integers, HALF), random_mask((128, 64), (64, 64), 0, 1)[0], grid)
    with refused(ValueError):
        packed_linear(of_int8, HALF, 128)


def test_other_kinds_of_tiles_are_refused():
    shape = (64, 128)
    integers, grid = random_grid(shape, W8A8, 1)
    one = Quantised.of(grid.values(integers, HALF), mosaic(shape, (64, 64), 1, KINDS[2:4]), grid)
    with refused(ValueError):
        packed_linear(one, HALF)


@dtypes
@pytest.mark.parametrize(
    ("shape", "panel_rows"),
    [((150, 320), 64), ((300, 2500), 128), ((10, 100), 64), ((1, 4), 64), ((70, 1024), 64), ((70, 1088), 64)],
    ids=str,
)
def test_the_body_computes_the_exact_sums(dtype, shape, panel_rows):
    one = linear(shape, dtype, 3, (128, 64))
    x = inputs((2, 3, shape[1]), dtype)
    model = with_sums(one_linear(packed_linear(one, dtype, panel_rows), dtype.type, out_features=shape[0]))
    exact = oracle.exact_sums(oracle.quantise_inputs(x)[0], one.integers.astype(np.int8))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    element = TensorProto.FLOAT16 if dtype is HALF else TensorProto.BFLOAT16
    value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), element)
    binding.bind_ortvalue_input("X", value)
    binding.bind_output("Y")
    binding.bind_output("sums")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[1].numpy().reshape(exact.shape), exact)
    y = run(
        one_linear(packed_linear(one, dtype, panel_rows), dtype.type, out_features=shape[0]), x, dtype.type
    )
    check_equal(y, x, one)


def test_extreme_integers_do_not_round():
    """127 · -128 in all columns of the longest K but for a single one."""
    columns = 131072
    integers = np.full((1, columns), -128, np.int8)
    grid = Grid(W8A8, np.ones(1, np.float32))
    one = Quantised.of(grid.values(integers, HALF), random_mask((1, columns), (64, 64), 0, 1)[0], grid)
    x = np.ones((1, 1, columns), np.float16)
    x[..., 7] = 1 / 127
    model = with_sums(one_linear(packed_linear(one, HALF), np.float16, out_features=1))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(["sums"], {"X": x})[0].item() == -128 * (127 * (columns - 1) + 1)


@dtypes
@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(True),
        Epilogue(True, "gelu", False, True),
        Epilogue(False, "silu", True),
        Epilogue(True, "silu", True, True),
    ],
    ids=lambda epilogue: epilogue.overload,
)
def test_epilogues_follow_the_product(dtype, epilogue):
    shape = (152, 320)
    made = [linear(shape, dtype, 11 + seed) for seed in range(1 + epilogue.gated)]
    panels = gated_panels(shape[0], 64) if epilogue.gated else stacked_panels(shape[:1], 64)
    rng = np.random.default_rng(2)
    biases = [rng.standard_normal(shape[0]).astype(dtype) for _ in made]
    residual = rng.standard_normal((2, 5, shape[0])).astype(dtype)
    x = (rng.standard_normal((2, 5, shape[1])) / 16).astype(dtype)
    model = one_linear(
        pack_quantised(made, panels, dtype),
        dtype.type,
        np.concatenate(biases) if epilogue.bias else None,
        epilogue=epilogue,
        out_features=shape[0],
    )
    y = run(model, x, dtype.type, residual if epilogue.residual else None).astype(np.float64)
    products = [
        oracle.product(x, one.integers.astype(np.int8), one.grid.scales)
        + epilogue.bias * bias.astype(np.float64)
        for one, bias in zip(made, biases, strict=True)
    ]
    exact = activated(epilogue.activation, products[0])
    if epilogue.gated:
        exact = exact * products[1]
    exact = exact + epilogue.residual * residual.astype(np.float64)
    slack = 2.0**-20 * (1 + sum(np.abs(one) for one in products)) ** (1 + epilogue.gated)
    assert (np.abs(y - exact) <= ROUNDING[dtype] * np.abs(exact) + slack).all()


@dtypes
def test_a_bad_token_spoils_only_itself(dtype):
    """NaN, infinities, zeros, numbers that count as zeros, and the largest and smallest numbers of the type."""
    one, x = linear((70, 192), dtype, 5), inputs((1, 9, 192), dtype)
    least = np.nextafter(dtype.type(0), dtype.type(1))
    x[0, 1, 100], x[0, 2, 3], x[0, 3, 4] = np.nan, np.inf, -np.inf
    x[0, 4], x[0, 5] = 0, -least
    x[0, 6, ::2] = ml_dtypes.finfo(dtype).max
    x[0, 7, :], x[0, 7, 0] = 0, least * dtype.type(3)
    y = run(one_linear(packed_linear(one, dtype), dtype.type, out_features=70), x, dtype.type)
    check_equal(y, x, one)
    assert (np.isnan(y[0]).all(-1) == np.isin(np.arange(9), (1, 2, 3))).all()
    assert np.isnan(y[0]).sum() == 3 * 70 and not y[0, 4].any()


def test_inputs_below_the_least_size_are_zeros():
    """Only bfloat16 has such numbers."""
    one = linear((10, 64), BFLOAT, 5)
    x = np.zeros((1, 2, 64), BFLOAT)
    x[0, 0], x[0, 1] = 2.0**-100, 2.0**-101
    y = run(one_linear(packed_linear(one, BFLOAT), BFLOAT.type, out_features=10), x, BFLOAT.type)
    assert not y[0, 1].any() and y[0, 0].any()
    check_equal(y, x, one)


@pytest.mark.parametrize("leading", [(0, 5), (2, 0), (0, 0)], ids=str)
def test_an_empty_batch_has_empty_outputs(leading):
    one = linear((70, 192), HALF, 5)
    model = one_linear(packed_linear(one, HALF), np.float16, out_features=70)
    assert run(model, np.zeros((*leading, 192), np.float16), np.float16).shape == (*leading, 70)


def test_the_reference_evaluator_agrees():
    one, x = linear((70, 1100), HALF, 5), inputs((2, 2, 1100), HALF)
    x[1, 1, 3] = np.inf
    model = one_linear(packed_linear(one, HALF), np.float16, out_features=70)
    with np.errstate(invalid="ignore"):
        y = ReferenceEvaluator(model).run(None, {"X": x})[0]
    check_equal(y, x, one)


@pytest.mark.parametrize("opset", [20, 23])
def test_the_body_runs_in_the_opsets_of_graphs(opset):
    one, x = linear((64, 1100), HALF, 1), inputs((2, 2, 1100), HALF)
    model = one_linear(packed_linear(one, HALF), np.float16, opset=opset, out_features=64)
    check_equal(run(model, x, np.float16), x, one)


@dtypes
def test_torch_rounds_inputs_to_the_same_integers(dtype):
    """The models of torch round inputs by masklearn's arithmetic, the function and the kernels by the oracle's."""
    import torch

    from masklearn.model.rounded_inputs import quantise

    x = inputs((64, 500), dtype)
    x[3, 7], x[4, 8], x[5] = np.nan, -np.inf, 0
    integers, scale = oracle.quantise_inputs(x)
    found, of_tokens = quantise(torch.from_numpy(x.astype(np.float32)))
    np.testing.assert_array_equal(found.numpy(), integers)
    np.testing.assert_array_equal(of_tokens.numpy()[..., 0], scale)
