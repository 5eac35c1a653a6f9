from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from patch_compile.passes import PassDump, cleanup_passes, run_passes
from patch_compile.passes.cleanup.deduplicate_constants import DeduplicateConstantsPass
from patch_compile.passes.cleanup.fix_reshapes import FixReshapesPass
from patch_compile.passes.cleanup.fold_constants import FoldConstantsPass
from patch_compile.passes.cleanup.remove_noops import RemoveNoopsPass
from patch_compile.passes.cleanup.replace_sequences import ReplaceSequencesPass
from patch_compile.passes.cleanup.resolve_cast_like import ResolveCastLikePass
from tests.graphs import graph_of, ops, outputs


def with_weight(model: ir.Model, name: str, shape: tuple[int, ...]) -> ir.Value:
    """Turn a graph input into an initializer without data, like the weights of an exported graph."""
    value = next(v for v in model.graph.inputs if v.name == name)
    model.graph.inputs.remove(value)
    model.graph.initializers[name] = value
    assert value.shape == ir.Shape(shape)
    return value


def test_every_operation_folds_to_what_onnx_runtime_computes() -> None:
    text = """
        agraph (int64[1] x) => (int64[1, 6] y) {
            a = Constant <value_ints = [5, 7]> ()
            b = Constant <value = int64[2] {2, 3}> ()
            f = Constant <value = float {4.0}> ()
            axis = Constant <value_ints = [0]> ()
            like = Cast <to = 7> (f)
            sum = Add (a, b)
            difference = Sub (a, b)
            product = Mul (a, like)
            negated = Neg (product)
            same = Identity (negated)
            all = Concat <axis = 0> (sum, difference, same)
            row = Unsqueeze (all, axis)
            flat = Squeeze (row, axis)
            six = Constant <value_ints = [6]> ()
            shaped = Reshape (flat, six)
            back = Unsqueeze (shaped, axis)
            y = Add (back, x)
        }"""
    model = graph_of(text)
    assert FoldConstantsPass()(model).modified
    assert ops(model) == ["Add"]
    assert not FoldConstantsPass()(model).modified
    x = np.array([100])
    assert outputs(model, x=x)[0].tolist() == outputs(graph_of(text), x=x)[0].tolist()


def test_a_cast_like_another_value_says_its_type() -> None:
    text = """
        agraph (float16[n, 4] x) => (float16[n, 4] y) {
            wide = Cast <to = 1> (x)
            root = Sqrt (wide)
            y = CastLike (root, x)
        }"""
    model = graph_of(text)
    assert ResolveCastLikePass()(model).modified
    assert ops(model) == ["Cast", "Sqrt", "Cast"]
    assert not ResolveCastLikePass()(model).modified
    x = np.array([[1, 2, 3, 4]], np.float16)
    assert np.array_equal(outputs(model, x=x)[0], outputs(graph_of(text), x=x)[0])


def test_casts_to_unknown_types_stay() -> None:
    model = graph_of("agraph (float[n] x, float16[n] z) => (y) { u = Neg (z) y = CastLike (x, u) }")
    assert not ResolveCastLikePass()(model).modified


SEQUENCE = """
    agraph (float[n, 6] x) => (float[n, {first}] a, float[n, {second}] b) {{
        sizes = Constant <{sizes}> ()
        zero = Constant <value = int64 {{0}}> ()
        one = Constant <value = int64 {{-1}}> ()
        parts = SplitToSequence <axis = {axis}, keepdims = 1> (x, sizes)
        a = SequenceAt (parts, zero)
        b = SequenceAt (parts, one)
    }}"""


@pytest.mark.parametrize(
    ("sizes", "first", "second"),
    [("value_ints = [2, 4]", 2, 4), ("value = int64 {3}", 3, 3), ("value = int64 {4}", 4, 2)],
)
def test_a_sequence_of_parts_becomes_a_split(sizes: str, first: int, second: int) -> None:
    text = SEQUENCE.format(sizes=sizes, first=first, second=second, axis=-1)
    model = run_passes(graph_of(text), [FoldConstantsPass(), ReplaceSequencesPass()])
    assert ops(model) == ["Split"]
    assert [value.name for value in model.graph.outputs] == ["a", "b"]
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for made, expected in zip(outputs(model, x=x), outputs(graph_of(text), x=x), strict=True):
        assert np.array_equal(made, expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("axis = -1", "axis = 0"),  # its length is unknown
        ("keepdims = 1", "keepdims = 0"),
        ("a = SequenceAt (parts, zero)", "l = SequenceLength (parts) a = SequenceAt (parts, l)"),
    ],
)
def test_a_sequence_that_is_no_split_stays(old: str, new: str) -> None:
    text = SEQUENCE.format(sizes="value = int64 {3}", first=3, second=3, axis=-1).replace(old, new)
    model = run_passes(graph_of(text), [FoldConstantsPass(), ReplaceSequencesPass()])
    assert "SplitToSequence" in ops(model)


def test_weights_are_not_folded_merged_or_read() -> None:
    model = graph_of("""
        agraph (float[2, 2] x, float[2, 2] W, float[2, 2] V) => (float[2, 2] y) {
            negated = Neg (W)
            other = Neg (V)
            a = Mul (x, negated)
            y = Mul (a, other)
        }""")
    with_weight(model, "W", (2, 2))
    lazy = with_weight(model, "V", (2, 2))

    def read() -> ir.TensorProtocol:
        raise AssertionError("a pass read a weight")

    lazy.const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape((2, 2)))
    run_passes(model, cleanup_passes())
    assert ops(model) == ["Neg", "Neg", "Mul", "Mul"]
    assert model.graph.initializers["W"].const_value is None


def test_large_constants_are_not_folded() -> None:
    model = graph_of("agraph (float[65] x) => (float[65] y) { y = Add (x, x) }")
    big = ir.node("Constant", [], attributes={"value": ir.tensor(np.ones(65, np.float32))}, name="big")
    negated = ir.node("Neg", [big.outputs[0]], name="negated")
    model.graph.insert_before(model.graph[0], [big, negated])
    model.graph[2].replace_input_with(1, negated.outputs[0])
    FoldConstantsPass()(model)
    assert ops(model) == ["Constant", "Neg", "Add"]


def test_known_reshapes_become_constant() -> None:
    text = """
        agraph (float[batch, sequence, 6] x) => (float[batch, sequence, 2, 3] y) {
            b = Shape <start = 0, end = 1> (x)
            s = Shape <start = 1, end = 2> (x)
            tail = Constant <value_ints = [2, 3]> ()
            shape = Concat <axis = 0> (b, s, tail)
            y = Reshape <allowzero = 1> (x, shape)
        }"""
    model = graph_of(text)
    run_passes(model, cleanup_passes())
    assert ops(model) == ["Reshape"]
    shape = model.graph[0].inputs[1]
    assert shape is not None and shape.const_value is not None
    assert shape.const_value.numpy().tolist() == [0, 0, 2, 3]
    x = np.arange(24, dtype=np.float32).reshape(2, 2, 6)
    assert np.array_equal(outputs(model, x=x)[0], outputs(graph_of(text), x=x)[0])


def test_only_a_single_moved_dimension_becomes_minus_one() -> None:
    model = graph_of("""
        agraph (float[a, b, 4] x, int64[3] s, int64[2] t) => (float[4, b, a] y, float[a_times_b, c] z) {
            y = Reshape (x, s)
            z = Reshape (x, t)
        }""")
    assert FixReshapesPass()(model).modified
    first, second = (node.inputs[1] for node in model.graph)
    assert first is not None and first.const_value is not None and second is not None
    assert first.const_value.numpy().tolist() == [4, 0, -1]
    assert second.name == "t"


def test_operations_without_effect_go() -> None:
    text = """
        agraph (float[n, 4] x) => (float[n, 4] y) {
            one = Constant <value = float {1.0}> ()
            zero = Constant <value_ints = [0]> ()
            end = Constant <value_ints = [9223372036854775807]> ()
            axis = Constant <value_ints = [1]> ()
            a = Identity (x)
            b = Cast <to = 1> (a)
            c = Mul (b, one)
            d = Slice (c, zero, end, axis, axis)
            e = Transpose <perm = [0, 1]> (d)
            y = Neg (e)
        }"""
    model = graph_of(text)
    for value in (v for node in model.graph for v in node.outputs if v.name in tuple("abcde")):
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(["n", 4])
    run_passes(model, [FoldConstantsPass(), RemoveNoopsPass()])
    assert ops(model) == ["Neg"]


def test_operations_that_only_look_idle_stay() -> None:
    text = """
        agraph (float[n, 4] x) => (float[n, n] y) {
            almost = Constant <value = float {1.5}> ()
            zero = Constant <value_ints = [0]> ()
            three = Constant <value_ints = [3]> ()
            axis = Constant <value_ints = [1]> ()
            narrow = Cast <to = 10> (x)
            wide = Cast <to = 1> (narrow)
            scaled = Mul (wide, almost)
            cut = Slice (scaled, zero, three, axis, axis)
            turned = Transpose <perm = [1, 0]> (cut)
            y = MatMul (scaled, turned)
        }"""
    model = graph_of(text)
    types = {"narrow": ir.DataType.FLOAT16}
    for node in model.graph:
        for value in node.outputs:
            if node.op_type != "Constant":
                value.dtype = types.get(str(value.name), ir.DataType.FLOAT)
                value.shape = ir.Shape(["n", 4])
    run_passes(model, [FoldConstantsPass(), RemoveNoopsPass()])
    assert ops(model) == ["Cast", "Cast", "Mul", "Slice", "Transpose", "MatMul"]


def test_removed_operations_keep_output_names() -> None:
    model = graph_of("""
        agraph (float[2] x) => (float[2] y, float[2] z) {
            a = Neg (x)
            y = Identity (a)
            z = Identity (x)
        }""")
    RemoveNoopsPass()(model)
    assert ops(model) == ["Neg", "Identity"]
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    y, z = outputs(model, x=np.array([1.0, 2.0], np.float32))
    assert y.tolist() == [-1, -2] and z.tolist() == [1, 2]


def test_equal_constants_of_a_type_merge() -> None:
    model = graph_of("""
        agraph (float[2, 3] x) => (float[1, 2, 3] y, int64[1] z) <int64[1] a = {0}, int64[1] b = {0}, int32[1] c = {0}> {
            y = Unsqueeze (x, a)
            wide = Cast <to = 7> (c)
            z = Add (b, wide)
        }""")
    assert DeduplicateConstantsPass()(model).modified
    assert set(model.graph.initializers) == {"a", "c"}
    assert not DeduplicateConstantsPass()(model).modified


def test_each_pass_leaves_its_graph_in_the_dump(tmp_path: Path) -> None:
    model = graph_of("agraph (float[2] x, float[2] W) => (float[2] y) { a = Identity (x)\n y = Mul (a, W) }")
    with_weight(model, "W", (2,))
    dump = PassDump(tmp_path / "dump")
    run_passes(run_passes(model, [FoldConstantsPass(), FixReshapesPass()], dump), [RemoveNoopsPass()], dump)
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names == [
        "00_start.txt",
        "01_FoldConstantsPass.txt",
        "02_FixReshapesPass.txt",
        "03_RemoveNoopsPass.txt",
    ]
    assert "Identity" in (tmp_path / "dump" / "00_start.txt").read_text()
    last = (tmp_path / "dump" / "03_RemoveNoopsPass.txt").read_text()
    assert "Identity" not in last and "weight W FLOAT [2]" in last
