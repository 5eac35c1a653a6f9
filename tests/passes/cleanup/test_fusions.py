import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from patch_compile.passes import cleanup_passes, run_passes
from patch_compile.passes.cleanup.fold_constants import FoldConstantsPass
from patch_compile.passes.cleanup.fuse_gelu import FuseGeluPass
from patch_compile.passes.cleanup.fuse_rms_norm import FuseRmsNormPass
from patch_compile.passes.cleanup.fuse_rotary_embedding import FuseRotaryEmbeddingPass
from tests.graphs import graph_of, ops, outputs

NORM = """
    agraph (float16[n, 8] x, float16[8] weight) => (float16[n, 8] y) {{
        two = Constant <value = float {{{power}}}> ()
        axes = Constant <value_ints = [{axis}]> ()
        epsilon = Constant <value = float {{0.01}}> ()
        wide = Cast <to = 1> (x)
        square = Pow (wide, two)
        mean = ReduceMean <keepdims = 1> (square, axes)
        shifted = Add (mean, epsilon)
        root = Sqrt (shifted)
        scale = Reciprocal (root)
        normal = Mul (wide, scale)
        narrow = Cast <to = 10> (normal)
        y = Mul (weight, narrow)
    }}"""


def test_rms_norm_keeps_epsilon_and_roundings() -> None:
    text = NORM.format(power="2.0", axis=-1)
    model = run_passes(graph_of(text), [FoldConstantsPass(), FuseRmsNormPass()])
    assert ops(model) == ["RMSNormalization"]
    attributes = model.graph[0].attributes
    assert attributes["epsilon"].as_float() == np.float32(0.01)
    assert (attributes["axis"].as_int(), attributes["stash_type"].as_int()) == (-1, 1)
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(s).astype(np.float16) * 3 for s in ((5, 8), (8,)))
    fused, plain = outputs(model, x=x, weight=weight)[0], outputs(graph_of(text), x=x, weight=weight)[0]
    # ONNX Runtime rounds the normalized value once less, which is one unit in the last place.
    np.testing.assert_allclose(
        fused.astype(np.float32), plain.astype(np.float32), rtol=2.0**-10, atol=2.0**-24
    )


@pytest.mark.parametrize(("power", "axis"), [("3.0", -1), ("2.0", 0)])
def test_what_is_not_rms_norm_stays(power: str, axis: int) -> None:
    model = run_passes(
        graph_of(NORM.format(power=power, axis=axis)), [FoldConstantsPass(), FuseRmsNormPass()]
    )
    assert "RMSNormalization" not in ops(model)


WIDE_NORM = """
    agraph (float16[n, 8] x, float16[8] weight) => (float16[n, 8] y) {
        two = Constant <value = float {2.0}> ()
        one = Constant <value = float {1.0}> ()
        axes = Constant <value_ints = [-1]> ()
        epsilon = Constant <value = float {0.01}> ()
        wide = Cast <to = 1> (x)
        square = Pow (wide, two)
        mean = ReduceMean <keepdims = 1> (square, axes)
        shifted = Add (mean, epsilon)
        root = Sqrt (shifted)
        scale = Reciprocal (root)
        normal = Mul (wide, scale)
        wide_weight = Cast <to = 1> (weight)
        centred = Add (wide_weight, one)
        scaled = Mul (normal, centred)
        y = Cast <to = 10> (scaled)
    }"""


def test_fp32_rms_norm_is_fused_in_fp32() -> None:
    model = graph_of(WIDE_NORM)
    common.ShapeInferencePass()(model)  # torch's exports have types
    run_passes(model, [FoldConstantsPass(), FuseRmsNormPass()])
    assert ops(model) == ["Cast", "Cast", "Add", "RMSNormalization", "Cast"]
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(s).astype(np.float16) * 3 for s in ((5, 8), (8,)))
    fused, plain = (outputs(m, x=x, weight=weight)[0] for m in (model, graph_of(WIDE_NORM)))
    np.testing.assert_allclose(fused.astype(np.float32), plain.astype(np.float32), rtol=2.0**-10)


def test_a_weight_of_another_type_is_not_fused() -> None:
    text = NORM.format(power="2.0", axis=-1).replace("float16[8] weight", "float[8] weight")
    model = run_passes(graph_of(text), [FoldConstantsPass(), FuseRmsNormPass()])
    assert "RMSNormalization" not in ops(model)


ROTARY = """
    agraph (float[b, 2, s, 6] x, float[b, s, 3] f) => (float[b, 2, s, 6] y) {{
        start = Constant <value_ints = [0]> ()
        middle = Constant <value_ints = [{middle}]> ()
        end = Constant <value_ints = [9223372036854775807]> ()
        axis = Constant <value_ints = [3]> ()
        step = Constant <value_ints = [1]> ()
        scale = Constant <value = float {{1.25}}> ()
        both = Concat <axis = -1> (f, {second})
        cos = Cos (both)
        cos_scaled = Mul (cos, scale)
        sin = Sin (both)
        sin_scaled = Mul (sin, scale)
        cos4 = Unsqueeze (cos_scaled, step)
        sin4 = Unsqueeze (sin_scaled, step)
        straight = Mul (x, cos4)
        low = Slice (x, start, middle, axis, step)
        high = Slice (x, middle, end, axis, step)
        minus = Neg (high)
        turned = Concat <axis = -1> ({order})
        rotated = Mul (turned, sin4)
        y = Add (straight, rotated)
    }}"""
ROTATION = {"middle": 3, "second": "f", "order": "minus, low"}


def rotary(opset: int = 23, **changes: object) -> ir.Model:
    model = graph_of(ROTARY.format(**(ROTATION | changes)), opset)
    for node in model.graph:
        shape = {"both": ["b", "s", 6], "low": ["b", 2, "s", 3]}.get(str(node.outputs[0].name))
        if shape is not None:
            node.outputs[0].shape = ir.Shape(shape)
    return model


def test_rotary_embedding_takes_half_tables() -> None:
    model = run_passes(rotary(), cleanup_passes())
    assert sorted(ops(model)) == ["Cos", "Mul", "Mul", "RotaryEmbedding", "Sin"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2, 4, 6)).astype(np.float32)
    f = rng.standard_normal((2, 4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        outputs(model, x=x, f=f)[0], outputs(rotary(), x=x, f=f)[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("changes", [{"middle": 2}, {"second": "g"}, {"order": "low, minus"}])
def test_what_is_not_a_rotation_stays(changes: dict[str, object]) -> None:
    text = ROTARY.format(**(ROTATION | changes)).replace("[b, s, 3] f)", "[b, s, 3] f, float[b, s, 3] g)")
    model = run_passes(graph_of(text), [FoldConstantsPass(), FuseRotaryEmbeddingPass()])
    assert "RotaryEmbedding" not in ops(model)


def test_older_opsets_keep_plain_ops() -> None:
    assert "RotaryEmbedding" not in ops(run_passes(rotary(20), cleanup_passes()))
    norm = graph_of(NORM.format(power="2.0", axis=-1), 20)
    assert "RMSNormalization" not in ops(run_passes(norm, cleanup_passes()))


GELU = """
    agraph (float16[n, 8] x) => (float16[n, 8] y) {{
        half32 = Constant <value = float {{0.5}}> ()
        half = Cast <to = 10> (half32)
        three32 = Constant <value = float {{3.0}}> ()
        three = Cast <to = 10> (three32)
        cubic32 = Constant <value = float {{0.044715}}> ()
        cubic = Cast <to = 10> (cubic32)
        scale32 = Constant <value = float {{{scale}}}> ()
        scale = Cast <to = 10> (scale32)
        one32 = Constant <value = float {{1.0}}> ()
        one = Cast <to = 10> (one32)
        halved = Mul (x, half)
        cube = Pow ({base}, three)
        small = Mul (cube, cubic)
        sum = Add (x, small)
        scaled = Mul (sum, scale)
        turned = Tanh (scaled)
        shifted = Add (turned, one)
        y = Mul (halved, shifted)
    }}"""


def test_spelled_out_gelu_becomes_one_op() -> None:
    text = GELU.format(scale=0.7978845608, base="x")
    model = run_passes(graph_of(text), [FoldConstantsPass(), FuseGeluPass()])
    assert ops(model) == ["Gelu"]
    assert model.graph[0].attributes["approximate"].as_string() == "tanh"
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float16) * 3
    fused, plain = outputs(model, x=x)[0], outputs(graph_of(text), x=x)[0]
    # eight roundings to fp16 against one
    np.testing.assert_allclose(
        fused.astype(np.float32), plain.astype(np.float32), rtol=8 * 2.0**-11, atol=2.0**-10
    )


@pytest.mark.parametrize(("scale", "base"), [(0.8, "x"), (0.7978845608, "halved")])
def test_what_is_not_that_gelu_stays(scale: float, base: str) -> None:
    model = run_passes(graph_of(GELU.format(scale=scale, base=base)), [FoldConstantsPass(), FuseGeluPass()])
    assert "Gelu" not in ops(model)
