import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from patch_compile.ops.patch_linear import DOMAIN, NAME, OVERLOAD_BIAS, patch_linear_function
from patch_compile.packing import pack
from tests.mosaics import masked_by_hand, random_mask, random_weight

ELEMENT = {np.float16: TensorProto.FLOAT16, ml_dtypes.bfloat16: TensorProto.BFLOAT16}


def one_linear(packed, dtype, bias=None, opset=23):
    element = ELEMENT[dtype]
    tensors = {"dense": element, "sparse": element, "meta": TensorProto.INT32, "index": TensorProto.INT32}
    raw = [
        helper.make_tensor(n, t, getattr(packed, n).shape, getattr(packed, n).tobytes(), raw=True)
        for n, t in tensors.items()
    ]
    inputs = ["X", *tensors]
    if bias is not None:
        raw.append(helper.make_tensor("bias", element, bias.shape, bias.tobytes(), raw=True))
        inputs.append("bias")
    node = helper.make_node(
        NAME, inputs, ["Y"], domain=DOMAIN, overload=OVERLOAD_BIAS if bias is not None else "", plugin_namespace="",
        in_features=packed.shape[1], out_features=packed.shape[0], panel_rows=packed.panel_rows, plugin_version="1",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("X", element, ["batch", "sequence", packed.shape[1]])],
        [helper.make_tensor_value_info("Y", element, ["batch", "sequence", packed.shape[0]])],
        raw,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)],
        functions=[
            patch_linear_function(opset=opset, bias=bias is not None, bfloat16=dtype is not np.float16)
        ],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x, dtype):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        "X", ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), ELEMENT[dtype])
    )
    out = np.zeros((*x.shape[:-1], model.graph.output[0].type.tensor_type.shape.dim[2].dim_value), np.uint16)
    y = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(out, ELEMENT[dtype])
    binding.bind_ortvalue_output("Y", y)
    session.run_with_iobinding(binding)
    return out.view(dtype)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("shape", "panel_rows"), [((192, 576), 128), ((200, 100), 64), ((1, 4), 64)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_body_multiplies_by_the_masked_weight(dtype, share, shape, panel_rows, with_bias):
    mask, pattern = random_mask(shape, (64, 64), share, 3)
    weight = random_weight(shape, dtype, 4)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 3, shape[1])).astype(dtype)
    bias = rng.standard_normal(shape[0]).astype(dtype) if with_bias else None
    y = run(one_linear(pack(weight.view(np.uint16), mask, panel_rows), dtype, bias), x, dtype)
    w = masked_by_hand(weight, mask, pattern).astype(np.float64)
    exact = x.astype(np.float64) @ w.T + (0 if bias is None else bias.astype(np.float64))
    # One rounding to T (half an ulp), and fp32 accumulation over K terms.
    half_ulp = 2.0**-11 if dtype is np.float16 else 2.0**-8
    bound = half_ulp * np.abs(exact) + shape[1] * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(w).T + 1)
    assert (np.abs(y.astype(np.float64) - exact) <= bound).all()


def test_onnx_runtime_folds_the_decode_at_load(tmp_path):
    mask, _ = random_mask((256, 256), (64, 64), 0.5, 0)
    model = one_linear(pack(random_weight((256, 256), np.float16, 0).view(np.uint16), mask, 64), np.float16)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx")
    assert [node.op_type for node in folded.graph.node] == ["Cast", "MatMul", "Cast"]


@pytest.mark.parametrize("opset", [20, 21, 22, 23])
def test_every_opset_of_ours_takes_the_function(opset):
    mask, _ = random_mask((64, 64), (64, 64), 1.0, 0)
    model = one_linear(pack(np.zeros((64, 64), np.uint16), mask, 64), np.float16, opset=opset)
    assert (run(model, np.ones((1, 1, 64), np.float16), np.float16) == 0).all()
