import itertools
import math

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from patch_compile.packing.checks import version_fault
from patch_compile.packing.format import pack, pack_together
from patch_compile.packing.function import (
    DOMAIN,
    INPUTS,
    NAME,
    VERSION,
    Epilogue,
    kinds_attribute,
    overload_of,
    patch_linear_function,
    tensor_names,
)
from patch_compile.packing.index import gated_panels
from tests.mosaics import masked_by_hand, random_mask, random_weight
from tests.refusals import refused

pytestmark = pytest.mark.quick

ELEMENT = {np.float16: TensorProto.FLOAT16, ml_dtypes.bfloat16: TensorProto.BFLOAT16}
HALF_ULP = {np.float16: 2.0**-11, ml_dtypes.bfloat16: 2.0**-8}
EPILOGUES = [
    Epilogue(*parts)
    for parts in itertools.product(
        (False, True), ("", "gelu", "gelu_tanh", "silu"), (False, True), (False, True)
    )
]


def one_linear(packed, dtype, bias=None, opset=23, epilogue=None, out_features=None):
    """A graph of one node with inputs X and, if the epilogue adds it, `residual`."""
    epilogue = epilogue or Epilogue(bias=bias is not None)
    element = ELEMENT[dtype]
    rows = out_features or packed.shape[0]
    names = tensor_names(packed.kinds, packed.weights)
    types = {"uint16": element, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    raw = [
        helper.make_tensor(n, types[t.dtype.name], t.shape, t.tobytes(), raw=True)
        for n, t in zip(names, packed.tensors, strict=True)
    ]
    if bias is not None:
        raw.append(helper.make_tensor("bias", element, bias.shape, bias.tobytes(), raw=True))
    node = helper.make_node(
        NAME, ["X", *names, *epilogue.inputs[len(INPUTS) :]], ["Y"], domain=DOMAIN,
        overload=overload_of(epilogue, packed.kinds, packed.weights), plugin_namespace="",
        in_features=packed.shape[1], out_features=rows, panel_rows=packed.panel_rows, plugin_version=str(VERSION),
        kinds=kinds_attribute(packed.kinds), index=packed.index.tolist(),
        weights=np.dtype(dtype).name if packed.weights is None else packed.weights.name,
        **epilogue.attributes,
    )  # fmt: skip
    of_y = [helper.make_tensor_value_info(n, element, ["batch", "sequence", rows]) for n in ("residual", "Y")]
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info("X", element, ["batch", "sequence", packed.shape[1]]),
            *of_y[:1] * epilogue.residual,
        ],
        of_y[1:],
        raw,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[
            patch_linear_function(
                epilogue,
                opset=opset,
                bfloat16=dtype is not np.float16,
                kinds=packed.kinds,
                weights=packed.weights,
            )
        ],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x, dtype, residual=None):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        "X", ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), ELEMENT[dtype])
    )
    if residual is not None:
        binding.bind_ortvalue_input(
            "residual",
            ort.OrtValue.ortvalue_from_numpy_with_onnx_type(residual.view(np.uint16), ELEMENT[dtype]),
        )
    out = np.zeros((*x.shape[:-1], model.graph.output[0].type.tensor_type.shape.dim[2].dim_value), np.uint16)
    y = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(out, ELEMENT[dtype])
    binding.bind_ortvalue_output("Y", y)
    session.run_with_iobinding(binding)
    return out.view(dtype)


def activated(kind, z):
    """Activations by their definitions in float64; the GELUs are Hendrycks & Gimpel's, arXiv 1606.08415."""
    if kind == "gelu":
        return z * 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    if kind == "gelu_tanh":
        return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return z / (1 + np.exp(-z)) if kind == "silu" else z


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=lambda e: e.overload or "none")
def test_epilogues_round_once_from_fp32(dtype, share, epilogue):
    shape, halves = (200, 132), 1 + epilogue.gated
    rng = np.random.default_rng(7)
    masks = [random_mask(shape, (64, 64), share, seed) for seed in range(halves)]
    weights = [(random_weight(shape, dtype, seed) * 4).astype(dtype) for seed in range(halves)]
    parts = [(weight.view(np.uint16), mask) for weight, (mask, _) in zip(weights, masks, strict=True)]
    packed = pack_together(parts, 64, gated_panels(200, 64)) if epilogue.gated else pack(*parts[0], 64)
    x = rng.standard_normal((2, 3, shape[1])).astype(dtype)
    bias = rng.standard_normal(halves * shape[0]).astype(dtype) if epilogue.bias else None
    residual = rng.standard_normal((2, 3, shape[0])).astype(dtype) if epilogue.residual else None
    model = one_linear(
        packed, dtype, bias, epilogue=epilogue, out_features=shape[0],
    )  # fmt: skip
    y = run(model, x, dtype, residual).astype(np.float64)

    wide = np.concatenate([masked_by_hand(w, *m) for w, m in zip(weights, masks, strict=True)])
    x, wide = x.astype(np.float64), wide.astype(np.float64)
    z = x @ wide.T + (0 if bias is None else bias.astype(np.float64))
    # All is fp32: the sum of K terms, then an activation whose slope is at most 1.13.
    z_error = 2.0**-23 * (shape[1] * (np.abs(x) @ np.abs(wide).T) + np.abs(z) + 1)
    z, up = z[..., : shape[0]], z[..., shape[0] :]
    exact, error = activated(epilogue.activation, z), 1.13 * z_error[..., : shape[0]] + 2.0**-21 * np.abs(z)
    if epilogue.gated:
        up_error = z_error[..., shape[0] :]
        exact, error = exact * up, error * (np.abs(up) + up_error) + np.abs(exact) * up_error
    if residual is not None:
        exact = exact + residual.astype(np.float64)
    error = error + 2.0**-22 * (np.abs(exact) + 1)
    assert (np.abs(y - exact) <= HALF_ULP[dtype] * (np.abs(exact) + error) + error).all()
    assert np.abs(exact).max() > 1


def test_an_activation_of_another_name_is_refused():
    with refused(ValueError):
        Epilogue(activation="quick_gelu")


def test_a_node_without_an_epilogue_says_so():
    plain = {"activation": "", "gated": 0, "residual": 0}
    assert Epilogue().attributes == plain and Epilogue(bias=True).attributes == plain
    assert (Epilogue().overload, Epilogue(bias=True).overload) == ("", "bias")


def folded_ops(model, folder):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "folded.onnx").graph.node]


def test_onnx_runtime_folds_the_decode_at_load(tmp_path):
    mask, _ = random_mask((256, 256), (64, 64), 0.5, 0)
    part = random_weight((256, 256), np.float16, 0).view(np.uint16), mask
    packed = pack(*part, 64)
    assert folded_ops(one_linear(packed, np.float16), tmp_path) == ["Cast", "MatMul", "Cast"]
    gated = one_linear(
        pack_together([part, part], 64, gated_panels(256, 64)),
        np.float16,
        epilogue=Epilogue(activation="gelu", gated=True),
        out_features=256,
    )
    assert folded_ops(gated, tmp_path) == ["Cast", "MatMul", "Split", "Gelu", "Mul", "Cast"]


@pytest.mark.parametrize("opset", [20, 21, 22, 23])
def test_every_opset_of_ours_takes_the_function(opset):
    mask, _ = random_mask((64, 64), (64, 64), 1.0, 0)
    model = one_linear(pack(np.zeros((64, 64), np.uint16), mask, 64), np.float16, opset=opset)
    assert (run(model, np.ones((1, 1, 64), np.float16), np.float16) == 0).all()


def test_nodes_without_version_use_the_functions():
    assert version_fault(None) == version_fault(str(VERSION)) == ""
    assert version_fault("2") == (
        "it is a PatchLinear of version '2', and '3' is read here: "
        "build the model again: `patch-compile build --recipe OUT/recipe.yaml`"
    )
    assert version_fault(VERSION) != "" and len(version_fault("x" * 10_000)) < 200
