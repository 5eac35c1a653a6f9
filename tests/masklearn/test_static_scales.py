"""Static scales: shared by linears of one X, absent where no single scale holds the activations."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.modules import removed_after
from masklearn.model.rounded_inputs import round_by_scales
from masklearn.quant.grid import StaticScales, storable
from masklearn.static_scales import find_static_scales
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.masklearn.edits import edited_weights

SETTINGS = {"tile": (32, 64), "weights": "w8a8"}
BLOCK = "model.layers.0."
OUT = f"{BLOCK}self_attn.o_proj"
QKV = [f"{BLOCK}self_attn.{name}_proj" for name in "qkv"]


def scales_of(path: Path, tiny: Tiny, masks: dict[str, LinearMask] | None = None) -> dict[str, StaticScales]:
    task = tiny.task(path)
    return find_static_scales(task, masks or {}, list(task.coverage.linears))


def test_linears_of_one_input_share_its_scale(make_model: ModelMaker, tiny: Tiny) -> None:
    scales = scales_of(make_model("llama"), tiny)
    assert len({scales[name].input for name in QKV}) == 1
    assert len({scales[name].output for name in QKV}) == 3
    assert scales[QKV[0]].input != scales[OUT].input


def test_a_massive_token_leaves_no_scale(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model("llama")
    assert scales_of(path, tiny).keys() >= {*QKV}
    with edited_weights(path) as tensors:
        words = tensors["model.embed_tokens.weight"]
        words[:, 5] = 0.0
        words[3, 5] = words.abs().max()  # the second word of the text
        tensors[f"{BLOCK}input_layernorm.weight"][5] = 1000.0
    assert not scales_of(path, tiny).keys() & {*QKV}


def test_outputs_with_huge_channels_stay_in_16_bits(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model("llama")
    assert scales_of(path, tiny)[OUT].output is not None
    with edited_weights(path) as tensors:
        tensors[f"{OUT}.weight"][3] *= 1000
    scales = scales_of(path, tiny)
    assert scales[OUT].output is None and scales[QKV[0]].output is not None


def test_float16_and_bfloat16_hold_every_scale(make_model: ModelMaker, tiny: Tiny) -> None:
    scales = scales_of(make_model("llama"), tiny).values()
    numbers = np.array([one for own in scales for one in (own.input, own.output) if one], np.float32)
    assert numbers.size and np.array_equal(storable(numbers), numbers)


def test_masks_are_applied(make_model: ModelMaker, tiny: Tiny) -> None:
    """Without half of its weights, a linear has smaller outputs."""
    path = make_model("llama", hidden_size=64, intermediate_size=128)
    masks = tiny.learn(path, ratio=0.5).masks
    dense, sparse = scales_of(path, tiny), scales_of(path, tiny, dict(masks))
    assert dense[QKV[0]].input == sparse[QKV[0]].input and dense[QKV[0]].output != sparse[QKV[0]].output


def test_an_interrupted_run_resumes_in_its_block(make_model: ModelMaker, tiny: Tiny) -> None:
    path, notes = make_model("llama"), list[str]()
    whole = scales_of(path, tiny)
    task = tiny.task(path, "scratch", note=notes.append)
    linears = list(task.coverage.linears)

    def stop(what: str, done: int, total: int) -> None:
        if what == "static scales" and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_static_scales(task.changed(progress=stop), {}, linears)
    assert find_static_scales(task, {}, linears) == whole
    assert notes == ["static scales resumes at block 2 of 3"]


@given(
    arrays(np.float32, (3, 8), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(2.0**-10, 1024.0, width=32).map(lambda one: float(storable(np.array([one], np.float32))[0])),
)
def test_rounding_is_that_of_onnx(x: np.ndarray, scale: float) -> None:
    x = np.concatenate([x, (np.arange(8, dtype=np.float32)[None] - 3.5) * np.float32(scale)])  # ties
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]))
    constants = [helper.make_tensor("s", TensorProto.FLOAT, [], [scale])]
    constants.append(helper.make_tensor("z", TensorProto.INT8, [], [0]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "round", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    linear = torch.nn.Linear(8, 8, bias=False)
    linear.weight.data = torch.eye(8)
    with removed_after(round_by_scales({"l": linear}, {"l": StaticScales(input=scale)})), torch.no_grad():
        rounded = linear(torch.from_numpy(x)).numpy()
    assert np.array_equal(rounded, session.run(None, {"x": x})[0])
