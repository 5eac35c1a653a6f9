"""The hybrid of every form of linear has packed weights and computes the same as the pruned model."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from patch_compile.artifacts.plan import Node
from patch_compile.onnx_io.compare import answer, compare_answers
from patch_compile.onnx_io.read import read_onnx
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.onnx_io.write import write_onnx
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.sources.onnx_model.rounding import RoundLinearsPass, WidenPass
from tests.sources.onnx_model import graphs
from tests.sources.onnx_model.learning import learn, write_hybrid

UNIT_ROUNDOFF = {"FLOAT16": 2.0**-11, "BFLOAT16": 2.0**-8}


def nodes_of(path, *kinds):
    return [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type in kinds]


def agreement(learned, hybrid, folder):
    """Largest error of the hybrid's output as a share of the largest value."""
    onnx.checker.check_model(str(hybrid), full_check=True)
    mine = answer(runnable_onnx(hybrid, folder), learned.feeds, folder / "mine")
    (difference,) = compare_answers(mine, answer(learned.pruned, learned.feeds, folder / "reference"))
    return difference.largest


def compiled(path, folder, dtype="FLOAT16", **options):
    """The hybrid of a uniformly 2:4 model, its plan, and its error against the pruned model."""
    settings = {name: options.pop(name) for name in ("kinds", "weights") if name in options}
    learned = learn(path, folder, dtype=dtype, ratio=options.pop("ratio", 0.5), **settings)
    hybrid = folder / "hybrid.onnx"
    plan = write_hybrid(learned, hybrid, **options)
    return hybrid, plan, agreement(learned, hybrid, folder)


@pytest.mark.parametrize("dtype", ["FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("model", ["mlp", "conv_net", "encoder"])
def test_exported_models(exported, tmp_path, model, dynamo, dtype):
    hybrid, plan, error = compiled(exported(model, dynamo), tmp_path, dtype)
    packed = [node.name for node in nodes_of(hybrid, "PatchLinear")]
    assert packed == [name for name, one in plan.items() if one.lowering == "plugin"]
    assert len(packed) == len(plan)
    assert 0 < error < 3 * UNIT_ROUNDOFF[dtype] * np.sqrt(3 * len(packed))


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_what_is_not_packed_stays_as_it_is(exported, tmp_path, ratio):
    path = exported("conv_net", True)
    hybrid, plan, error = compiled(path, tmp_path, ratio=ratio)
    dense = [one for one in plan.values() if one.lowering == "dense"]
    assert len(nodes_of(hybrid, "Conv", "Gemm")) == 1 + len(dense)  # the stem and the dense linears
    assert len(dense) == (3 if ratio == 0.0 else 1)
    assert error < 1e-3 if ratio else error == 0.0


@pytest.mark.parametrize("lowering", ["split", "dense"])
def test_other_lowerings(exported, tmp_path, lowering):
    hybrid, plan, error = compiled(exported("encoder", True), tmp_path, lowering=lowering, ratio=0.3)
    assert not nodes_of(hybrid, "PatchLinear")
    assert {one.lowering for one in plan.values() if one.tiles.sparse} == {lowering}
    assert error < 0.01


def test_casts_are_shared_and_left_out_between_linears(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "q"),
        helper.make_node("MatMul", ["x", "b"], ["r"], "k"),
        helper.make_node("MatMul", ["p", "c"], ["s"], "after_q"),
        helper.make_node("Add", ["s", "r"], ["y"], "add"),
    ]
    weights = [graphs.tensor(name, 64, 64) for name in "abc"]
    hybrid, _, error = compiled(graphs.save(tmp_path / "m.onnx", nodes, weights), tmp_path)
    assert sorted(node.name for node in nodes_of(hybrid, "Cast")) == ["after_q/wide", "k/wide", "q/narrow"]
    assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3


def test_16_bit_models_get_no_casts(tmp_path):
    path = graphs.export(graphs.mlp, tmp_path / "m.onnx", dtype=torch.float16, dynamo=False)
    hybrid, plan, error = compiled(path, tmp_path)
    assert not nodes_of(hybrid, "Cast", "Gelu")
    assert [plan[name].node.activation for name in ("0", "2", "4")] == ["gelu", "", ""]
    assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3


def gated(path, *, extra=()):
    """A graph of down(SiLU(gate(x)) · up(x)), with `extra` nodes that may read values in between."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["g"], "gate"),
        helper.make_node("MatMul", ["x", "b"], ["u"], "up"),
        helper.make_node("Sigmoid", ["g"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["g", "s"], ["silu"], "silu"),
        helper.make_node("Mul", ["silu", "u"], ["h"], "product"),
        helper.make_node("MatMul", ["h", "c"], ["d"], "down"),
        *extra,
        helper.make_node("Add", ["d", "more" if extra else "x"], ["y"], "end"),
    ]
    return graphs.save(path, nodes, [graphs.tensor(name, 64, 64) for name in "abc"])


class TestActivationsOfAnFp32Model:
    def test_gelu(self, exported, tmp_path):
        hybrid, plan, error = compiled(exported("mlp", True), tmp_path)
        assert [plan[name].node.activation for name in ("0", "2", "4")] == ["gelu", "", ""]
        assert not nodes_of(hybrid, "Gelu")
        assert len(nodes_of(hybrid, "Cast")) == 4  # at x, around Relu, at y
        assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3

    def test_the_product_of_gate_and_up(self, tmp_path):
        hybrid, plan, error = compiled(gated(tmp_path / "m.onnx"), tmp_path)
        assert {one.node.name for one in plan.values()} == {"gate+up", "down"}
        assert sorted(node.name for node in nodes_of(hybrid, "Cast")) == ["down/wide", "gate/narrow"]
        assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3

    def test_without_fusion_they_stay_fp32(self, tmp_path):
        hybrid, plan, error = compiled(gated(tmp_path / "m.onnx"), tmp_path, fuse=())
        assert len({one.node for one in plan.values()}) == 3
        assert len(nodes_of(hybrid, "Cast")) == 5
        assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3

    def test_clashing_value_names_are_avoided(self, tmp_path):
        """Values of the graph have the names that passes give to the values that they make."""
        ends = ("narrow", "wide", "product", "transpose", "x/narrow", "x/wide", "y/narrow", "y/wide", "exact")
        made = [f"{value}/{end}" for value in ("gate", "up", "down", *"gudh", "silu", "y") for end in ends]
        extra = [helper.make_node("Relu", ["x"], [name], f"relu{i}") for i, name in enumerate(made)]
        extra.append(helper.make_node("Mean", made, ["more"], "mean"))
        hybrid, plan, error = compiled(gated(tmp_path / "m.onnx", extra=extra), tmp_path)
        assert len(nodes_of(hybrid, "PatchLinear")) == len({one.node.name for one in plan.values()})
        assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3

    def test_queries_keys_and_values(self, tmp_path):
        """The split into heads may be fp32, behind a Cast. A constant has the name of the sizes of the parts."""
        nodes = [
            *(helper.make_node("MatMul", ["x", w], [w + "y"], w) for w in "qkv"),
            *(helper.make_node("Reshape", [w + "y", "heads"], [w + "h"], w + "heads") for w in "qkv"),
            helper.make_node("Sum", ["qh", "kh", "vh", "q+k+v.parts"], ["y"], "end"),
        ]
        heads = helper.make_tensor("heads", TensorProto.INT64, [3], [0, -1, 16])
        weights = [graphs.tensor(name, 64, 64) for name in "qkv"]
        weights.append(graphs.tensor("q+k+v.parts", 16))
        path = graphs.save(tmp_path / "m.onnx", nodes, [*weights, heads])
        hybrid, plan, error = compiled(path, tmp_path)
        assert {one.node.name for one in plan.values()} == {"q+k+v"}
        assert len(nodes_of(hybrid, "PatchLinear")) == len(nodes_of(hybrid, "Split")) == 1
        assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3

    @pytest.mark.parametrize("read", ["silu", "h"])
    def test_what_is_read_in_fp32_stays_fp32(self, tmp_path, read):
        """Its values might exceed the range of 16 bits."""
        extra = [helper.make_node("Exp", [read], ["more"], "exp")]
        hybrid, plan, error = compiled(gated(tmp_path / "m.onnx", extra=extra), tmp_path)
        assert all(one.node == Node(name=name, linears=(name,)) for name, one in plan.items())
        assert len(nodes_of(hybrid, "Cast")) == 5
        assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 3


@pytest.mark.parametrize(
    ("clashing", "options", "kind"),
    [
        ("dense", {}, "plugin"),
        ("scales", {"weights": "int8"}, "plugin"),
        ("values_n8", {"kinds": "8:16"}, "plugin"),
        ("split.rows.sparse", {"lowering": "split"}, "split"),
    ],
)
def test_clashing_tensor_names_are_avoided(tmp_path, clashing, options, kind):
    """`fc.bias` is a value other than fc's bias, and `fc.dense` is another node's constant."""
    nodes = [
        helper.make_node("Relu", ["x"], ["fc.bias"], "relu"),
        helper.make_node("MatMul", ["fc.bias", "fc.weight"], ["p"], "product"),
        helper.make_node("Add", ["p", "other"], ["q"], "sum"),
        helper.make_node("Mul", ["q", f"fc.{clashing}"], ["y"], "scale"),
    ]
    names = {"fc.weight": (64, 64), "other": (64,), f"fc.{clashing}": (64,)}
    weights = [graphs.tensor(name, *shape) for name, shape in names.items()]
    hybrid, plan, error = compiled(graphs.save(tmp_path / "m.onnx", nodes, weights), tmp_path, **options)
    assert {name: one.lowering for name, one in plan.items()} == {"fc": kind}
    made = {value.name for value in onnx.load(hybrid, load_external_data=False).graph.initializer}
    assert {f"fc.{clashing}", f"fc.{clashing}/before"} <= made
    assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 2


def test_a_convolution_over_one_axis(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "pointwise")]
    weights = [graphs.tensor("w", 128, 64, 1), graphs.tensor("b", 128)]
    path = graphs.save(tmp_path / "m.onnx", nodes, weights, x=("batch", 64, "length"))
    hybrid, _, error = compiled(path, tmp_path)
    assert [node.name for node in nodes_of(hybrid, "PatchLinear", "Conv")] == ["pointwise"]
    assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 2


def test_a_linear_that_a_subgraph_reads(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Relu", ["p"], ["t"], "relu")],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["p"], ["e"], "neg")],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    flag = [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "fc"),
        helper.make_node("If", ["flag"], ["y"], "choice", then_branch=inner, else_branch=other),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("w", 64, 64)], inputs=flag)
    hybrid, _, error = compiled(path, tmp_path)
    assert len(nodes_of(hybrid, "PatchLinear")) == 1
    assert error < 3 * UNIT_ROUNDOFF["FLOAT16"] * 2


class TestReferences:
    """Variants of the pruned model that measure the effect of rounding."""

    def test_measured_rounding_covers_the_hybrids(self, exported, tmp_path):
        path = exported("encoder", True)
        learned = learn(path, tmp_path)
        model = read_onnx(path)
        linears = linears_of_file(path, model).linears
        write_onnx(RoundLinearsPass(linears, learned.dtype)(model).model, tmp_path / "rounded.onnx")
        reference = answer(path, learned.feeds, tmp_path / "a")
        (moved,) = compare_answers(
            answer(tmp_path / "rounded.onnx", learned.feeds, tmp_path / "b"), reference
        )
        assert 0 < moved.largest < 3 * UNIT_ROUNDOFF["FLOAT16"] * np.sqrt(2 * len(linears))
        assert len(nodes_of(tmp_path / "rounded.onnx", "Cast")) == 4 * len(linears)

    def test_widening_leaves_no_16_bit_type(self, tmp_path):
        half, blank = TensorProto.FLOAT16, helper.make_tensor("b", TensorProto.FLOAT16, [1], [0.5])
        nodes = [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["half"], value=blank),
            helper.make_node("Add", ["x", "half"], ["h"]),
            helper.make_node("Cast", ["h"], ["exact"], to=TensorProto.FLOAT),
            helper.make_node("Softmax", ["exact"], ["s"]),
            helper.make_node("Cast", ["s"], ["rounded"], to=half),
            helper.make_node("MatMul", ["rounded", "w"], ["y"], "fc"),
        ]
        path = graphs.save(
            tmp_path / "half.onnx", nodes, [graphs.tensor("w", 64, 64, dtype=np.float16)], elem=half
        )
        wide = tmp_path / "wide.onnx"
        write_onnx(WidenPass()(read_onnx(path)).model, wide)
        onnx.checker.check_model(str(wide), full_check=True)
        assert "float16" not in onnx.printer.to_text(onnx.load(wide))
        assert "float16" in onnx.printer.to_text(onnx.load(path))
        feeds = [{"x": np.random.default_rng(0).standard_normal((2, 64)).astype(np.float16)}]
        (moved,) = compare_answers(answer(wide, feeds, tmp_path / "a"), answer(path, feeds, tmp_path / "b"))
        assert 0 < moved.largest < 4 * UNIT_ROUNDOFF["FLOAT16"]
