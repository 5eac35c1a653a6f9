"""References round the inputs of linears of w8a8, as their hybrids do."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8, W8A8
from patch_compile.onnx_io.read import read_onnx
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.passes.lowering.round_inputs import write_rounded
from tests.oracles.int8_products import quantise_inputs
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


def test_a_graph_without_w8a8_is_unchanged(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "a"], ["y"], "a")]
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("a", 64, 64)])
    assert [node.op_type for node in read_onnx(rounded(path, {"a": INT8})).graph] == ["MatMul"]
