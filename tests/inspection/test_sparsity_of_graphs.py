"""`inspect --target` of ONNX files by others: layouts of weights, Q/DQ, PatchLinear, and what is left dense."""

import re
import shlex

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from masklearn.quant.table import INT8, W8A8
from patch_compile.inspection import inspect_path
from patch_compile.inspection.sparsity import Way
from tests.commands import run_here
from tests.engine.graphs import write_chain
from tests.inspection.test_quantised import with_attribute, written
from tests.inspection.test_sparsity import WAYS, along_n, rows, two_four, upper_half
from tests.refusals import refused

SIZE = 512
SCALE = numpy_helper.from_array(np.float32(0.01), "scale")
ZERO = numpy_helper.from_array(np.int8(0), "zero")


def weight(change=two_four, shape=(SIZE, SIZE), seed=3):
    """A pruned weight [N, K]."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3
    return change(made).numpy()


def integers(change=two_four, shape=(SIZE, SIZE)):
    """Integers of a pruned weight [N, K]: only pruned weights are 0."""
    values = weight(change, shape)
    whole = np.clip(np.round(values * 100), -127, 127) + (values > 0) - (values < 0)
    return whole.clip(-128, 127).astype(np.int8)


def saved(path, nodes, tensors, outputs=("y",), dtype=TensorProto.FLOAT16, k=SIZE, opset=21, **domains):
    """Write a graph from x [rows, K] to outputs of the type."""
    x = helper.make_tensor_value_info("x", dtype, ["rows", k])
    ends = [helper.make_tensor_value_info(name, dtype, None) for name in outputs]
    graph = helper.make_graph(
        nodes, "graph", [x], ends, [numpy_helper.from_array(a, n) for n, a in tensors.items()]
    )
    imports = [helper.make_opsetid(name, version) for name, version in {"": opset, **domains}.items()]
    graph.initializer.extend([SCALE, ZERO])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def rounded(path, values, *, before=True, after=True, transposed=False, between=()):
    """Write `fc`, whose int8 weight [N, K] is behind DequantizeLinear, with Q/DQ before and after it."""
    nodes, x = [], "x"
    if before:
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], "xq"),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], "xd"),
        ]
        x = "xd"
    stored = values if transposed else values.T
    nodes.append(helper.make_node("DequantizeLinear", ["fc.weight", "scale", "zero"], ["w"], "wd"))
    nodes += [helper.make_node("Transpose", ["w"], ["wt"], "turn", perm=[1, 0])] if transposed else []
    nodes.append(helper.make_node("MatMul", [x, "wt" if transposed else "w"], ["p"], "fc"))
    last = "p"
    for one in between:
        nodes.append(helper.make_node(one, [last, "bias"] if one == "Add" else [last], [f"{last}_"], one))
        last = f"{last}_"
    if after:
        nodes += [
            helper.make_node("QuantizeLinear", [last, "scale", "zero"], ["yq"], "yq"),
            helper.make_node("DequantizeLinear", ["yq", "scale", "zero"], ["y"], "yd"),
        ]
    else:
        nodes.append(helper.make_node("Softmax", [last], ["y"], "soft"))
    tensors = {"fc.weight": np.ascontiguousarray(stored), "bias": np.zeros(len(values), np.float32)}
    return saved(path, nodes, tensors, dtype=TensorProto.FLOAT, k=values.shape[1])


@pytest.mark.parametrize("layout", ["matmul", "gemm", "transpose"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_patterns_are_told_in_each_layout(tmp_path, layout, dtype):
    nodes, tensors = [], {}
    for name, (change, *_) in WAYS.items():
        shape = (2 * SIZE, SIZE) if name == "gate_proj" else (SIZE, SIZE)
        values, of = weight(change, shape).astype(dtype), f"{name}.weight"
        tensors[of] = np.ascontiguousarray(values.T) if layout == "matmul" else values
        if layout == "transpose":
            nodes.append(helper.make_node("Transpose", [of], [f"{name}.t"], f"{name}.t", perm=[1, 0]))
            of = f"{name}.t"
        options = {"transB": 1} if layout == "gemm" else {}
        kind = "Gemm" if layout == "gemm" else "MatMul"
        nodes.append(helper.make_node(kind, ["x", of], [name], name, **options))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    found = inspect_path(saved(tmp_path / "m.onnx", nodes, tensors, WAYS, kind), "l4")
    of = rows(found)
    assert found.kind == "onnx" and of.keys() == WAYS.keys()
    for name, (_, pattern, way, reason) in WAYS.items():
        row = of[name]
        assert (row["pattern"], row["path"]) == (pattern.value, way.value), name
        assert re.search(reason, row["reason"]) if reason else not row["reason"], row
    assert "A graph stores zeros" in found.facts["verdict"]
    assert " groups keep too many weights (1 linear)" in found.facts["what stops the rest"]
    types = "--fp16" if dtype is np.float32 else "--stronglyTyped"
    assert found.facts["without a plugin"].endswith(f"--sparsity=enable {types}")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("between", [(), ("Add",), ("Add", "Relu")])
def test_int8_in_and_out_takes_tensorrts_tactic(tmp_path, transposed, between):
    path = rounded(tmp_path / "m.onnx", integers(shape=(4096, 4096)), transposed=transposed, between=between)
    found = inspect_path(path, "a100-80")
    (row,) = found.rows
    assert (row["linear"], row["pattern"], row["path"]) == ("fc", "2:4", Way.TENSORRT.value)
    assert row["1 token, ×"] > 1.3 < row["2048 tokens, ×"] and not row["reason"]
    assert found.facts["without a plugin"] == f"trtexec --onnx={path} --sparsity=enable --stronglyTyped"
    assert not {"run", "to prune it for 2:4"} & found.facts.keys()
    assert found.facts["what stops the rest"] == "nothing"


OTHERS = {
    "16 bits out": ({"after": False}, two_four, (SIZE, SIZE), "2:4", "output of 16 bits"),
    "GELU": ({"between": ("Gelu",)}, two_four, (SIZE, SIZE), "2:4", "output of 16 bits"),
    "incomplete": ({"before": False}, two_four, (SIZE, SIZE), "2:4", "incomplete: the input has none"),
    "unaligned": ({}, two_four, (500, 516), "2:4", "N = 500 and K = 516 is no multiple of 32"),
    "other axis": ({}, along_n, (SIZE, SIZE), "2:4 along N", r"along K \(inputs\)"),
    "tiles": ({}, upper_half, (SIZE, SIZE), "2:4 in part of the tiles", "only the plugin multiplies"),
    "dense": ({"after": False}, lambda whole: whole, (SIZE, SIZE), "dense", "^not pruned$"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_qdq_that_no_tactic_takes_is_told(tmp_path, case):
    options, change, shape, pattern, reason = OTHERS[case]
    found = inspect_path(rounded(tmp_path / "m.onnx", integers(change, shape), **options), "l4")
    (row,) = found.rows
    assert (row["pattern"], row["path"], row["1 token, ×"]) == (pattern, Way.NONE.value, 1.0)
    assert re.search(reason, row["reason"]), row
    assert "without a plugin" not in found.facts


def test_fake_quantised_weights_are_read(tmp_path):
    """Some exporters leave weights in 16 or 32 bits before QuantizeLinear."""
    ends = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", ["fc.weight", *ends], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", *ends], ["w"], "d"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, {"fc.weight": weight().T.copy()}, dtype=TensorProto.FLOAT)
    (row,) = inspect_path(path, "l4").rows
    assert row["pattern"] == "2:4" and "incomplete" in row["reason"]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_zero_points_count_as_zeros(tmp_path, axis):
    whole = integers().T.astype(np.int16).clip(-100, 100)
    points = np.int8(7) if axis is None else (np.arange(SIZE) % 9).astype(np.int8)
    spread = points if axis is None else points[:, None] if axis == 0 else points[None]
    scales = np.float32(0.01) if axis is None else np.full(SIZE, 0.01, np.float32)
    nodes = [
        helper.make_node(
            "DequantizeLinear",
            ["fc.weight", "s", "z"],
            ["w"],
            "d",
            **({} if axis is None else {"axis": axis}),
        ),
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    tensors = {"fc.weight": (whole + spread).astype(np.int8), "s": scales, "z": points}
    (row,) = inspect_path(saved(tmp_path / "m.onnx", nodes, tensors, dtype=TensorProto.FLOAT), "l4").rows
    assert (row["pattern"], row["zeros"]) == ("2:4", 0.5)


def test_16_bits_between_qdq_keep_the_tactic(tmp_path):
    """The plugin is built from graphs without Q/DQ."""
    path = rounded(tmp_path / "m.onnx", integers())
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("MatMul", ["x", "head.weight"], ["z"], "head"))
    model.graph.initializer.append(
        numpy_helper.from_array(weight(shape=(4096, SIZE)).T.copy(), "head.weight")
    )
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    onnx.save(model, path)
    assert rows(inspect_path(path, "l4"))["head"]["path"] == Way.TENSORRT.value


def test_patchlinear_of_16_bits_is_named(tmp_path):
    found = inspect_path(write_chain(tmp_path / "chain.onnx", external=True), "l4")
    *packed, head = found.rows
    assert [row["path"] for row in packed] == [Way.PLUGIN.value] * 2 and head["path"] == Way.NONE.value
    assert all(0 < row["in 2:4 tiles"] < 1 for row in packed) and "run" not in found.facts


def test_patchlinear_of_integers_is_named(tmp_path):
    for weights in (INT8, W8A8):
        path, _ = written(tmp_path / "m.onnx", weights)
        (row,) = inspect_path(path, "l4").rows
        assert (row["linear"], row["shape"], row["path"]) == ("linear", [100, 192], Way.PLUGIN.value)
        assert row["reason"] == "PatchLinear multiplies it already" and 0 < row["zeros"] < 1


def test_other_products_are_left_dense(tmp_path):
    fp8 = helper.make_tensor("f", TensorProto.FLOAT8E4M3FN, [64, 64], [1.0] * 64 * 64)
    nodes = [
        helper.make_node("MatMul", ["x", "a.weight"], ["a"], "a"),
        helper.make_node("MatMul", ["a", "odd"], ["odd_y"], "odd"),
        helper.make_node("Sine", ["odd_y"], ["s"], "sine", domain="theirs"),
        helper.make_node("DequantizeLinear", ["f", "scale"], ["w8"], "d8"),
        helper.make_node("MatMul", ["a", "w8"], ["y8"], "fp8"),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["aq"], "aq"),
        helper.make_node("DequantizeLinear", ["aq", "scale", "zero"], ["ad"], "ad"),
        helper.make_node("MatMul", ["a", "ad"], ["both"], "both"),
        helper.make_node("MatMulInteger", ["aq", "i"], ["whole"], "integers"),
        helper.make_node("Cast", ["whole"], ["y"], "wide", to=TensorProto.FLOAT),
    ]
    tensors = {
        "a.weight": weight(shape=(64, 64)),
        "odd": weight(lambda whole: whole, (64, 64))[:, :5].copy(),
        "i": np.ones((64, 64), np.int8),
    }
    path = saved(
        tmp_path / "m.onnx", nodes, tensors, ("y", "s", "y8", "both"), TensorProto.FLOAT, 64, theirs=1
    )
    model = onnx.load(path)
    model.graph.initializer.append(fp8)
    onnx.save(model, path)
    found = inspect_path(path, "l4")
    assert list(rows(found)) == ["a", "odd"]
    assert found.facts["left dense"] == {
        "fp8": "its Q/DQ has float8e4m3fn, and only int8 is read",
        "both": "both factors are computed at run time",
        "integers": "it multiplies integers without Q/DQ",
    }


def test_the_commands_run(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "fc")]
    values = weight(upper_half, (2 * SIZE, SIZE)).T.astype(np.float16)
    path = saved(tmp_path / "m.onnx", nodes, {"fc.weight": np.ascontiguousarray(values)})
    command = shlex.split(inspect_path(path, "l4").facts["run"])[1:]
    command[command.index("OUT")] = str(tmp_path / "OUT")
    built = run_here(*command, "--backend", "onnx", "--opt-shapes", "x:4x512")
    assert built.returncode == 0, built.stderr
    pruned = onnx.load(tmp_path / "OUT/model/model.onnx")
    (stored,) = (one for one in pruned.graph.initializer if one.name == "fc.weight")
    assert np.array_equal(numpy_helper.to_array(stored, str(tmp_path / "OUT/model")), values)


def test_graphs_without_an_answer_are_refused(tmp_path):
    path = saved(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], "relu")], {})
    with refused():
        inspect_path(path, "l4")
    broken = weight()
    broken[3, 5] = np.inf
    path = saved(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "fc")],
        {"fc.weight": broken},
        dtype=TensorProto.FLOAT,
    )
    with refused():
        inspect_path(path, "l4")
    path, _ = written(tmp_path / "m.onnx", INT8, with_attribute("weights", "int2"))
    with refused():
        inspect_path(path, "l4")
    for old in ("t4", "NVIDIA V100", "sm75", "RTX 2080 Ti"):
        with refused():
            inspect_path(path, old)
