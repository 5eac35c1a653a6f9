import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
from tests.graphs import graph_of, outputs
from tests.onnx_io.bfloat16_graph import model_with_weight


def rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_every_result_is_rounded_to_bfloat16_exactly_once() -> None:
    model, weight = model_with_weight()
    x = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    t, y = outputs(EmulateBfloat16Pass()(model).model, x=x)
    product = rounded(rounded(x) @ weight.astype(np.float32).T)
    scaled = rounded(product * product)
    gate = rounded(1 / (1 + np.exp(-scaled)))
    # The last bit of exp may round the gate to the other side of a tie; the products must be equal.
    np.testing.assert_allclose(t.T, gate, rtol=2.0**-8)
    assert np.array_equal(y, rounded(scaled * t.T))
    assert np.array_equal(t, rounded(t)) and t.dtype == np.float32
    assert not np.array_equal(y, scaled * t.T)


def test_emulation_leaves_the_bfloat16_original() -> None:
    model, _ = model_with_weight()
    EmulateBfloat16Pass()(model)
    assert model.graph.initializers["w"].dtype == ir.DataType.BFLOAT16
    assert [v.dtype for v in model.graph.outputs] == [ir.DataType.BFLOAT16] * 2
    # Once ONNX Runtime runs bf16 on the CPU, the emulation is no longer needed.
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented):
        outputs(model, x=np.zeros((3, 8), np.float32))


def test_packed_weights_stay_as_they_are() -> None:
    model = graph_of("agraph (bfloat16[2, 8] x, bfloat16[1, 4] dense) => (bfloat16[2, 4] y) { y = Neg (x) }")
    node = model.graph[0]
    packed = ir.node("PatchLinear", [model.graph.inputs[0], model.graph.inputs[1]], domain="patch", name="l")
    packed.outputs[0].dtype = ir.DataType.BFLOAT16
    dense = model.graph.inputs.pop(1)
    dense.const_value = ir.tensor(np.ones((1, 4), ml_dtypes.bfloat16), name="dense")
    model.graph.initializers["dense"] = dense
    model.graph.insert_before(node, packed)
    node.replace_input_with(0, packed.outputs[0])
    copy = EmulateBfloat16Pass()(model).model
    assert copy.graph.initializers["dense"].dtype == ir.DataType.BFLOAT16
    assert copy.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert [n.op_type for n in copy.graph] == ["PatchLinear", "Cast", "Cast", "Neg", "Cast", "Cast"]
