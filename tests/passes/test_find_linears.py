"""Finding the linears among the nodes, with reasons for nodes that are not linears."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from patch_compile.onnx_io.read import read_onnx
from patch_compile.passes.find_linears import linears_of_file
from tests.refusals import refused
from tests.sources.onnx_model import graphs

N, K = 32, 64


def find(path):
    return linears_of_file(path, read_onnx(path))


def found_beside(path, nodes, initializers=(), **options):
    """Find linears in a graph of `nodes` and one more linear, `kept`."""
    kept = helper.make_node("MatMul", ["x", "kept.weight"], ["k"], "kept")
    total = helper.make_node("Identity", [options.pop("last", "k")], ["y"], "end")
    weights = [graphs.tensor("kept.weight", K, N), *initializers]
    found = find(graphs.save(path, [kept, *nodes, total], weights, **options))
    assert "kept" in found.linears
    return found


@pytest.mark.parametrize("dynamo", [True, False])
class TestExported:
    def test_mlp(self, exported, dynamo):
        found = find(exported("mlp", dynamo))
        shapes = {name: linear.shape for name, linear in found.linears.items()}
        assert shapes == {"0": (128, 64), "2": (128, 128), "4": (64, 128)}
        assert [linear.bias.name for linear in found.linears.values()] == ["0.bias", "2.bias", "4.bias"]
        assert not found.skipped

    def test_conv_net(self, exported, dynamo):
        found = find(exported("conv_net", dynamo))
        shapes = {name: (linear.shape, linear.spatial) for name, linear in found.linears.items()}
        assert shapes == {"widen": ((128, 64), 2), "narrow": ((64, 128), 2), "head": ((12, 64), 0)}
        assert list(found.skipped.values()) == ["a 3×3 convolution is not a linear"]

    def test_encoder(self, exported, dynamo):
        """Weights that an exporter transposed and renamed get the names of their modules."""
        found = find(exported("encoder", dynamo))
        names = [
            f"layers.{layer}.{part}"
            for layer in (0, 1)
            for part in ("self_attn", "self_attn.out_proj", "linear1", "linear2")
        ]
        assert list(found.linears) == names
        assert found.linears["layers.0.self_attn"].shape == (192, 64)
        assert all(linear.bias is not None for linear in found.linears.values())
        assert list(found.skipped.values()) == ["both factors are computed at run time"] * 4


@pytest.mark.parametrize(
    ("nodes", "stored", "transposed"),
    [
        ([("MatMul", ["x", "w"], {})], (K, N), True),
        ([("Transpose", ["w"], {"perm": [1, 0]}), ("MatMul", ["x", "w1"], {})], (N, K), False),
        ([("Transpose", ["w"], {}), ("MatMul", ["x", "w1"], {})], (N, K), False),
        ([("Identity", ["w"], {}), ("MatMul", ["x", "w1"], {})], (K, N), True),
        ([("Gemm", ["x", "w"], {})], (K, N), True),
        ([("Gemm", ["x", "w"], {"transB": 1})], (N, K), False),
        ([("Transpose", ["w"], {}), ("Gemm", ["x", "w1"], {"transB": 1})], (K, N), True),
        ([("Transpose", ["w"], {}), ("Transpose", ["w1"], {}), ("MatMul", ["x", "w2"], {})], (K, N), True),
    ],
)  # fmt: skip
def test_weights_are_read_as_n_by_k(tmp_path, nodes, stored, transposed):
    weight = graphs.tensor("w", *stored)
    made = [
        helper.make_node(op, inputs, [f"w{i}" if i < len(nodes) else "y"], f"n{i}", **attributes)
        for i, (op, inputs, attributes) in enumerate(nodes, start=1)
    ]
    path = graphs.save(tmp_path / "m.onnx", made, [weight])
    (linear,) = find(path).linears.values()
    assert (linear.shape, linear.transposed) == ((N, K), transposed)
    array = onnx.numpy_helper.to_array(weight)
    read = linear.checked_weight(ir.DataType.FLOAT16)
    assert np.array_equal(read, array.T if transposed else array)
    assert np.array_equal(linear.to_stored(read), array)


def test_clashing_output_names_are_avoided(tmp_path):
    """A graph output can't be renamed, so the linear is."""
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["fc.bias"], "product")]
    path = graphs.save(tmp_path / "m.onnx", [*nodes, helper.make_node("Relu", ["fc.bias"], ["y"])],
                       [graphs.tensor("fc.weight", K, N)])  # fmt: skip
    proto = onnx.load(path)
    proto.graph.output.append(helper.make_tensor_value_info("fc.bias", TensorProto.FLOAT, None))
    onnx.save(proto, path)
    assert list(find(path).linears) == ["fc_2"]


def test_unnamed_linears_have_names_of_their_own(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "/block/fc/MatMul"),
        helper.make_node("MatMul", ["h", "b"], ["y"], "/block/fc/MatMul_1"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("a", K, K), graphs.tensor("b", K, N)])
    assert list(find(path).linears) == ["block.fc", "block.fc_2"]


@pytest.mark.parametrize(
    ("bias", "taken"),
    [((N,), True), ((1, N), True), ((1, 1, N), True), ((), False), ((N, 1), False)],
)
def test_the_bias_of_a_product(tmp_path, bias, taken):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "fc"),
        helper.make_node("Add", ["b", "p"], ["y"], "add"),
    ]
    x = ("batch", N, K)
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("w", K, N), graphs.tensor("b", *bias)], x=x)
    (linear,) = find(path).linears.values()
    assert (linear.bias is not None) == taken
    assert linear.output.name == ("y" if taken else "p")


CASES = {
    "transA": ("Gemm", {"transA": 1}, "its X is transposed (transA)"),
    "alpha": ("Gemm", {"alpha": 2.0}, "its alpha or beta is not 1"),
    "bias": ("Gemm", {"c": True}, "its bias is not a constant of 32 elements"),
    "left": ("MatMul", {"left": True}, "its constant is the left factor"),
    "K": ("MatMul", {"k": 62}, "K = 62 is not a multiple of 4"),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_products_that_are_no_linears(tmp_path, case):
    op, attributes, reason = CASES[case]
    attributes = dict(attributes)
    k, left, c = attributes.pop("k", K), attributes.pop("left", False), attributes.pop("c", False)
    rows = 4 if not attributes.get("transA") else K
    inputs = ["z", "w"] if not left else ["w", "z"]
    nodes = [helper.make_node(op, [*inputs, *(["c"] if c else [])], ["p"], "odd", **attributes)]
    z = [rows, k] if not left else [N, 4]
    given = [helper.make_tensor_value_info("z", TensorProto.FLOAT, z)]
    if c:
        given.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [N]))
    found = found_beside(
        tmp_path / "m.onnx",
        nodes,
        [graphs.tensor("w", rows if attributes.get("transA") else k, N)],
        inputs=given,
    )
    assert found.skipped == {"odd": reason}


@pytest.mark.parametrize(
    ("kernel", "attributes", "reason"),
    [
        ((N, K, 3, 3), {}, "a 3×3 convolution is not a linear"),
        ((N, K, 1, 1), {"strides": [2, 2]}, "a convolution of stride 2×2 skips inputs"),
        ((N, K // 2, 1, 1), {"group": 2}, "a convolution in 2 groups is not a linear"),
        ((N, K, 1), {"pads": [1, 0]}, "a 1×1 convolution with padding makes more outputs than inputs"),
    ],
)
def test_convolutions_that_are_no_linears(tmp_path, kernel, attributes, reason):
    nodes = [helper.make_node("Conv", ["image", "w"], ["p"], "odd", **attributes)]
    given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, K, *[8] * (len(kernel) - 2)])]
    found = found_beside(tmp_path / "m.onnx", nodes, [graphs.tensor("w", *kernel)], inputs=given)
    assert found.skipped == {"odd": reason}


def test_dynamic_weights_stay_dense(tmp_path):
    given = [helper.make_tensor_value_info("w", TensorProto.FLOAT, [K, N])]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "of_input"),
        helper.make_node("Relu", ["w"], ["r"], "relu"),
        helper.make_node("Gemm", ["x", "r"], ["b"], "of_node"),
    ]
    found = found_beside(tmp_path / "m.onnx", nodes, inputs=given)
    assert found.skipped == {
        "of_input": "its weight is the input 'w' of the graph",
        "of_node": "its weight is computed at run time, by Relu 'relu'",
    }


def test_a_weight_of_two_linears_stays_dense(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Identity", ["w"], ["again"], "copy"),
        helper.make_node("MatMul", ["a", "again"], ["b"], "second"),
    ]
    found = found_beside(tmp_path / "m.onnx", nodes, [graphs.tensor("w", K, K)])
    assert found.skipped == {
        "first": "its weight is also read by MatMul 'second': one packed form can't serve both",
        "second": "its weight is also read by MatMul 'first': one packed form can't serve both",
    }


def test_a_weight_tied_to_an_embedding_stays_dense(tmp_path):
    nodes = [
        helper.make_node("Gather", ["w", "ids"], ["e"], "embed"),
        helper.make_node("Transpose", ["w"], ["wt"], "flip"),
        helper.make_node("MatMul", ["e", "wt"], ["logits"], "head"),
    ]
    given = [helper.make_tensor_value_info("ids", TensorProto.INT64, [2, 3])]
    found = found_beside(tmp_path / "m.onnx", nodes, [graphs.tensor("w", 100, K)], inputs=given)
    assert found.skipped["head"].startswith("its weight is also read by Gather 'embed'")


def branch(name, outer):
    """A subgraph that multiplies the outer graph's `x`."""
    nodes = [helper.make_node("MatMul", ["x", outer], [f"{name}_out"], f"{name}_fc")]
    output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
    own = [graphs.tensor(outer, K, N)] if outer.startswith("own") else []
    return helper.make_graph(nodes, name, [], [output], own)


@pytest.mark.parametrize("outer", ["w", "own"])
def test_a_linear_of_a_subgraph_stays_dense(tmp_path, outer):
    given = [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    branches = {"then_branch": branch("t", f"{outer}_t"), "else_branch": branch("e", f"{outer}_e")}
    nodes = [helper.make_node("If", ["flag"], ["z"], "choice", **branches)]
    weights = [graphs.tensor(f"w_{side}", K, N) for side in "te"] if outer == "w" else []
    found = found_beside(tmp_path / "m.onnx", nodes, weights, inputs=given, last="z")
    assert found.skipped == {
        "t_fc": "it lies in the then_branch of If 'choice', and only the main graph is compiled",
        "e_fc": "it lies in the else_branch of If 'choice', and only the main graph is compiled",
    }


def test_a_recurrent_operator_stays_dense(tmp_path):
    """R of a GRU is [directions, 3 hidden, hidden]."""
    weights = [graphs.tensor("w", 1, 96, K), graphs.tensor("r", 1, 96, 32)]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["sequence"]),
        helper.make_node("GRU", ["sequence", "w", "r"], ["h"], "memory", hidden_size=32),
    ]
    axis = onnx.numpy_helper.from_array(np.array([0]), "axis")
    found = found_beside(tmp_path / "m.onnx", nodes, [*weights, axis])
    assert found.skipped == {"memory": "a recurrent operator holds its weights in itself"}


def quantised(name):
    """Returns the nodes of a graph whose weight `w` is int8, or float32 for "fake"."""
    node = helper.make_node
    return {
        "dequantised": [
            node("DequantizeLinear", ["w", "scale"], ["wide"], "dq"),
            node("MatMul", ["x", "wide"], ["y"], "fc"),
        ],
        "fake": [
            node("QuantizeLinear", ["w", "scale"], ["q"], "quant"),
            node("DequantizeLinear", ["q", "scale"], ["wide"], "dq"),
            node("Gemm", ["x", "wide"], ["y"], "fc"),
        ],
        "cast": [node("Cast", ["w"], ["wide"], to=1), node("MatMul", ["x", "wide"], ["y"], "fc")],
        "integers": [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", ["q", "w", "z"], ["i"], "product"),
            node("Cast", ["i"], ["y"], to=1),
        ],
    }[name]


@pytest.mark.parametrize("name", ["dequantised", "fake", "cast", "integers"])
def test_quantised_weights_are_refused(tmp_path, name):
    weight = graphs.tensor("w", K, N)
    if name != "fake":
        weight = helper.make_tensor("w", TensorProto.INT8, [K, N], [1] * (K * N))
    scale = [graphs.tensor("scale")] if name in ("dequantised", "fake") else []
    with refused():
        find(graphs.save(tmp_path / "m.onnx", quantised(name), [weight, *scale]))


def test_reasons_are_counted_by_kind(tmp_path):
    """A convolution net has dozens of kernels, and an exported decoder a thousand weights that are computed."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Conv", ["x", "v"], ["d"], "wide"),
        *(helper.make_node("Abs", ["x"], [f"a{i}"], f"abs{i}") for i in range(50)),
        *(helper.make_node("Gemm", ["x", f"a{i}"], [f"g{i}"], f"gemm{i}") for i in range(50)),
        helper.make_node("Sum", [f"g{i}" for i in range(50)], ["y"], "sum"),
    ]
    weights = [graphs.tensor("w", 8, 8, 3, 3), graphs.tensor("v", 8, 8, 1, 5)]
    with refused() as caught:
        find(graphs.save(tmp_path / "m.onnx", nodes, weights, x=(8, 8, 8, 8)))
    assert caught.error.why.startswith("50 × ")
    assert "; gemm0: its weight is computed at run time, by Abs 'abs0'; …" in caught.error.why


@pytest.mark.parametrize("op", ["Gemm", "Conv", "MatMul"])
def test_a_small_bias_in_a_constant_node(tmp_path, op):
    shape = {"Gemm": (64, 6), "MatMul": (64, 6), "Conv": (6, 64, 1)}[op]
    x = ("batch", 64, 5) if op == "Conv" else ("batch", 64)
    product = ["x", "w"] if op == "MatMul" else ["x", "w", "b"]
    nodes = [
        helper.make_node("Constant", [], ["b"], value=graphs.tensor("b", 6)),
        helper.make_node(op, product, ["p"], "fc"),
        helper.make_node("Add", ["p", "b"] if op == "MatMul" else ["p", "p"], ["y"], "add"),
    ]
    found = find(graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("w", *shape)], x=x))
    assert not found.skipped
    assert found.linears["fc"].bias is not None


def test_double_precision_stays_dense(tmp_path):
    given = [helper.make_tensor_value_info("z", TensorProto.DOUBLE, [2, K])]
    nodes = [helper.make_node("MatMul", ["z", "w"], ["p"], "odd")]
    found = found_beside(
        tmp_path / "m.onnx", nodes, [graphs.tensor("w", K, N, dtype=np.float64)], inputs=given
    )
    assert found.skipped == {"odd": "it computes in double"}
