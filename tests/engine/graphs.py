"""Small ONNX files with PatchLinear nodes, made by the real packing and function, shaped as decoders and encoders."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from patch_compile.packing.format import pack, pack_together
from patch_compile.packing.function import (
    DOMAIN,
    NAME,
    VERSION,
    Epilogue,
    kinds_attribute,
    patch_linear_function,
)
from patch_compile.packing.index import gated_panels
from patch_compile.packing.slab_kinds import ALWAYS
from tests.mosaics import random_mask, random_weight

OPSET = 23
DTYPES = {
    "float16": (np.float16, TensorProto.FLOAT16),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}
SIZE = 128
NONE = Epilogue()


def write_chain(
    path,
    *,
    dtype="float16",
    shares=(0.5, 0.5),
    shape=(SIZE, SIZE),
    with_gemm=True,
    external=False,
    as_plugin=True,
):
    """Write x [batch, sequence, K] through one PatchLinear per share of sparse tiles, then a plain MatMul."""
    initializers, nodes, last = [], [], "x"
    for i, share in enumerate(shares):
        tensors = packed_tensors(f"layers.{i}.proj", shape, share, dtype, seed=i)
        initializers += tensors
        nodes.append(patch_linear(f"layers.{i}.proj", last, tensors, f"y{i}", shape, as_plugin))
        last = f"y{i}"
    kind = DTYPES[dtype][1]
    if with_gemm:
        initializers.append(tensor("head.weight", random_weight((shape[0], SIZE), DTYPES[dtype][0], 9), kind))
        nodes.append(helper.make_node("MatMul", [last, "head.weight"], ["y"], "head"))
    else:
        nodes.append(helper.make_node("Identity", [last], ["y"], "out"))
    inputs = [helper.make_tensor_value_info("x", kind, ["batch", "sequence", shape[1]])]
    outputs = [
        helper.make_tensor_value_info("y", kind, ["batch", "sequence", SIZE if with_gemm else shape[0]])
    ]
    return save(path, nodes, inputs, outputs, initializers, external)


def write_mlp(path, *, dtype="float16"):
    """Write an MLP: gate and up as one node, then a down that adds x [batch, sequence, K]; both have an epilogue."""
    gated, added = Epilogue(activation="silu", gated=True), Epilogue(residual=True)
    shape = (SIZE, SIZE)
    gate_up = packed_tensors("mlp.gate_proj+up_proj", shape, 0.5, dtype, seed=0, up_share=1.0)
    down = packed_tensors("mlp.down_proj", shape, 0.5, dtype, seed=2)
    nodes = [
        patch_linear("mlp.gate_proj+up_proj", "x", gate_up, "h", shape, epilogue=gated),
        patch_linear("mlp.down_proj", "h", down, "y", shape, epilogue=added, more_inputs=["x"]),
    ]
    kind = DTYPES[dtype][1]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, kind, ["batch", "sequence", SIZE])] for name in "xy"
    )
    return save(path, nodes, inputs, outputs, [*gate_up, *down], external=False, epilogues=(gated, added))


def write_decoder(path):
    """Write a PatchLinear whose output joins a cache, with a decoder's inputs: x, attention_mask and one past key."""
    tensors = packed_tensors("proj", (SIZE, SIZE), 0.5, "float16", seed=3)
    half, whole = TensorProto.FLOAT16, TensorProto.INT64
    nodes = [
        patch_linear("proj", "x", tensors, "projected", (SIZE, SIZE)),
        helper.make_node("Unsqueeze", ["projected", "axis"], ["key"], "unsqueeze"),
        helper.make_node("Concat", ["past_key_values.0.key", "key"], ["present.0.key"], "concat", axis=2),
        helper.make_node("Add", ["attention_mask", "one"], ["mask_out"], "add"),
    ]
    extra = [tensor("axis", np.array([1]), whole), tensor("one", np.array(1), whole)]
    inputs = [
        helper.make_tensor_value_info("x", half, ["batch", "sequence", SIZE]),
        helper.make_tensor_value_info("attention_mask", whole, ["batch", "total"]),
        helper.make_tensor_value_info("past_key_values.0.key", half, ["batch", 1, "past", SIZE]),
    ]
    outputs = [
        helper.make_tensor_value_info("present.0.key", half, ["batch", 1, "past + sequence", SIZE]),
        helper.make_tensor_value_info("mask_out", whole, ["batch", "total"]),
    ]
    return save(path, nodes, inputs, outputs, [*tensors, *extra], external=False)


def write_two_gemms(path):
    """Write two concatenated products of one input, which TensorRT-RTX merges into one."""
    half = TensorProto.FLOAT16
    weights = [tensor(f"w{i}", random_weight((SIZE, SIZE), np.float16, i), half) for i in range(2)]
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"part{i}"], f"gemm{i}") for i in range(2)]
    nodes.append(helper.make_node("Concat", ["part0", "part1"], ["y"], "concat", axis=-1))
    inputs = [helper.make_tensor_value_info("x", half, ["batch", "sequence", SIZE])]
    outputs = [helper.make_tensor_value_info("y", half, ["batch", "sequence", 2 * SIZE])]
    return save(path, nodes, inputs, outputs, weights, external=False)


class PackedTensors(list):
    """The tensors of a linear, and its index."""

    index: list[int]


def packed_tensors(name, shape, share, dtype, seed, up_share=None):
    """Packed tensors of a linear, or of a gate and an up when `up_share`, the up's share of 2:4 tiles, is given."""
    parts = []
    for i, of_part in enumerate((share, up_share)):
        if of_part is not None:
            mask, _ = random_mask(shape, (64, 64), of_part, seed + i)
            parts.append((random_weight(shape, DTYPES[dtype][0], seed + i).view(np.uint16), mask))
    together = len(parts) > 1
    packed = pack_together(parts, 64, gated_panels(shape[0], 64)) if together else pack(*parts[0], 64)
    kind = DTYPES[dtype][1]
    tensors = PackedTensors(
        [
            tensor(f"{name}.dense", packed.dense, kind),
            tensor(f"{name}.sparse", packed.sparse, kind),
            tensor(f"{name}.meta", packed.meta, TensorProto.INT32),
        ]
    )
    tensors.index = packed.index.tolist()
    return tensors


def patch_linear(name, x, tensors, y, shape, as_plugin=True, epilogue=NONE, more_inputs=()):
    namespace = {"plugin_namespace": "", "plugin_version": str(VERSION)} if as_plugin else {}
    return helper.make_node(
        NAME,
        [x, *(t.name for t in tensors), *more_inputs],
        [y],
        name,
        domain=DOMAIN,
        overload=epilogue.overload,
        in_features=shape[1],
        out_features=shape[0],
        panel_rows=64,
        kinds=kinds_attribute(ALWAYS),
        weights=TensorProto.DataType.Name(tensors[0].data_type).lower(),
        index=tensors.index,
        **epilogue.attributes,
        **namespace,
    )


def tensor(name, values, kind):
    return helper.make_tensor(name, kind, values.shape, np.ascontiguousarray(values).tobytes(), raw=True)


def save(path, nodes, inputs, outputs, initializers, external, epilogues=(NONE,)):
    bfloat16 = any(stored.data_type == TensorProto.BFLOAT16 for stored in initializers)
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[patch_linear_function(e, opset=OPSET, bfloat16=bfloat16) for e in epilogues],
        ir_version=11,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path
