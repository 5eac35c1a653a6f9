"""References round the inputs of linears of w8a8, as their hybrids do."""

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from masklearn.masks.kinds.table import DENSE
from masklearn.model.rounded_inputs import round_inputs
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8, W8A8
from patch_compile.onnx_io.read import read_onnx
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.packing.index import stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.passes.lowering.round_inputs import write_rounded
from tests.mosaics import mosaic
from tests.oracles.int8_products import quantise_inputs
from tests.packing import test_function as function
from tests.sources.onnx_model import graphs


def run(path, x):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})


def rounded(path, types):
    """The file with rounded inputs of the linears of w8a8. types: by the name of a weight."""
    model = read_onnx(path)
    linears = linears_of_file(path, model).linears
    grids = {
        name: Grid(types[str(one.weight.name)], np.ones(one.shape[0], np.float32))
        for name, one in linears.items()
    }
    out = path.with_name("rounded.onnx")
    write_rounded(path, grids, out)
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_only_linears_of_w8a8_round_their_inputs(tmp_path, dtype):
    """Linears of one X read one rounded X."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("MatMul", ["x", name], [f"y_{name}"], name) for name in "abc"]
    nodes.append(helper.make_node("Concat", ["y_a", "y_b", "y_c"], ["y"], "joined", axis=-1))
    weights = [graphs.tensor(name, 64, 64, dtype=dtype) for name in "abc"]
    path = graphs.save(tmp_path / "m.onnx", nodes, weights, elem=element)
    out = rounded(path, {"a": W8A8, "b": INT8, "c": W8A8})
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(dtype)
    x[3] = 0
    integers, scale = quantise_inputs(x)
    as_rounded = (integers * scale[:, None]).astype(dtype)
    before, after = run(path, x)[0], run(out, x)[0]
    np.testing.assert_array_equal(after[:, 64:128], before[:, 64:128])
    np.testing.assert_allclose(
        after[:, :64], run(path, as_rounded)[0][:, :64], atol=1e-3 if dtype == np.float16 else 1e-6
    )
    np.testing.assert_allclose(
        after[:, 128:], run(path, as_rounded)[0][:, 128:], atol=1e-3 if dtype == np.float16 else 1e-6
    )
    assert np.abs(after[:, :64] - before[:, :64]).max() > 3e-3
    kinds = [node.op_type for node in read_onnx(out).graph]
    assert kinds.count("Round") == 1


def test_features_of_a_convolution_are_tokens(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "pointwise")]
    path = graphs.save(
        tmp_path / "m.onnx", nodes, [graphs.tensor("w", 128, 64, 1)], x=("batch", 64, "length")
    )
    out = rounded(path, {"w": W8A8})
    x = np.random.default_rng(1).standard_normal((2, 64, 7)).astype(np.float32)
    integers, scale = quantise_inputs(np.moveaxis(x, 1, -1))
    as_rounded = np.moveaxis(integers * scale[..., None], -1, 1).astype(np.float32)
    np.testing.assert_allclose(run(out, x)[0], run(path, as_rounded)[0], atol=1e-6)


def test_tokens_below_the_least_size_are_zeros(tmp_path):
    """Only bfloat16 has such numbers. The weight is 1, so the outputs are the rounded inputs."""
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    x = np.array([2.0**-100, -(2.0**-101), 0.99 * 2.0**-100, 1])[:, None] * np.linspace(-1, 1, 64)
    x = x.astype(bfloat16)
    eye = np.eye(64, dtype=bfloat16)
    by_masklearn = round_inputs(torch.from_numpy(x.astype(np.float32)).bfloat16()).float().numpy()

    weight = helper.make_tensor(
        "w", helper.np_dtype_to_tensor_dtype(bfloat16), (64, 64), eye.tobytes(), raw=True
    )
    product = [helper.make_node("MatMul", ["x", "w"], ["y"], "a")]
    path = graphs.save(tmp_path / "m.onnx", product, [weight], elem=weight.data_type)
    reference = run(runnable_onnx(rounded(path, {"w": W8A8}), tmp_path), x.astype(np.float32))[0]

    one = Quantised.of(eye, mosaic((64, 64), (64, 64), 1, (DENSE,)), Grid(W8A8, np.ones(64, np.float32)))
    packed = pack_quantised([one], stacked_panels([64], 64), bfloat16, 64)
    hybrid = function.run(function.one_linear(packed, bfloat16.type), x[None], bfloat16.type)[0]

    np.testing.assert_array_equal(reference, by_masklearn)
    np.testing.assert_array_equal(hybrid.astype(np.float32), by_masklearn)
    assert list(by_masklearn.any(-1)) == [True, False, False, True]
