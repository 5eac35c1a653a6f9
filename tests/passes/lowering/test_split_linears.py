"""A split linear computes the same as its masked weight; test_lowerings.py tests whole models."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masklearn.masks.maskset import MaskSet
from masklearn.masks.tiles import WHOLE
from masklearn.quant.grid import Grid
from masklearn.quant.static import StaticScales
from masklearn.quant.table import W8A8
from patch_compile.artifacts.plan import SplitRow
from patch_compile.errors import InvariantError
from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
from patch_compile.onnx_io.session import open_session
from patch_compile.onnx_io.write import write_onnx
from patch_compile.passes.lowering.split_linears import SplitLinearsPass
from patch_compile.planning.lowering import plan_linear, plan_linears
from patch_compile.planning.split import PART, SplitCost
from tests.graphs import FORMS, graph_of, linear
from tests.mosaics import masked_by_hand, random_mask, random_weight
from tests.refusals import refused

FREE = SplitCost(launch=1e-6, row=1e-9)
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.fixture(scope="module", autouse=True)
def free_products():
    """Every 2:4 row is worth a product."""
    with costing(FREE):
        yield


@contextmanager
def costing(cost):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("launch", "row"):
            patch.setattr(SplitCost, name, getattr(cost, name))
        yield


def split(model, mask, weight, cost=FREE):
    """Run the pass and return it with its findings."""
    plan = {"a": plan_linear("a", mask).changed(lowering="split")}
    dtype = ir.DataType[weight.dtype.name.upper()]
    splitting = SplitLinearsPass(plan, {"a": mask}, {"a.weight": weight}.__getitem__, dtype)
    with costing(cost):
        splitting(model)
    return splitting


def run(model, path, x):
    """Write the graph and compute it by ONNX Runtime; bf16 is emulated, as in the proof of a build."""
    write_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    if x.dtype == ml_dtypes.bfloat16:
        write_onnx(EmulateBfloat16Pass()(ir.load(path)).model, path)
        x = x.astype(np.float32)
    return open_session(path).run(None, {"x": x})[0].astype(np.float64)


def check(path, form, shape, tile, share, dtype, cost=FREE, seed=0, **graph):
    mask, pattern = random_mask(shape, tile, share, seed)
    weight, bias = (random_weight(s, DTYPES[dtype], seed) for s in (shape, shape[:1]))
    x = np.random.default_rng(seed).standard_normal((2, 5, shape[1])).astype(DTYPES[dtype])
    x = x[0] if form.startswith("gemm") else x
    model = linear(form, shape, dtype, **graph)
    if "bias" in form:
        model.graph.initializers["a.bias"].const_value = ir.tensor(bias)
    splitting = split(model, mask, weight, cost)
    y = run(model, path, x)
    masked = masked_by_hand(weight, mask, pattern).astype(np.float64)
    exact = x.astype(np.float64) @ masked.T + (bias.astype(np.float64) if "bias" in form else 0)
    assert y.shape == exact.shape
    # The product and the bias are rounded to the type; products are summed in fp32.
    scale = np.abs(x.astype(np.float64)) @ np.abs(masked).T + 0.2
    assert (np.abs(y - exact) <= 4 * float(ml_dtypes.finfo(DTYPES[dtype]).eps) / 2 * scale).all()
    return splitting.splits["a"], model, mask


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_forms_types_and_shares(form, dtype, share, tmp_path):
    found, model, mask = check(tmp_path / "m.onnx", form, (150, 72), (32, WHOLE), share, dtype)
    assert found.sparse_weights == 4 * mask.pattern.size
    assert (len(found.parts) == 1) == (share in (0.0, 1.0))
    kinds = Counter(node.metadata_props[PART] for node in model.graph if PART in node.metadata_props)
    assert set(kinds) == {0.0: {"dense"}, 0.5: {"dense", "sparse"}, 1.0: {"sparse"}}[share]


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 24).map(lambda groups: groups * 4)),
    tile=st.sampled_from([(32, 32), (16, 64), (1, 4), (7, WHOLE), (32, WHOLE)]),
    share=st.floats(0, 1),
    launch=st.sampled_from([0.0, 0.01, 5.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_ragged_shapes(tmp_path, shape, tile, share, launch, seed):
    check(tmp_path / "m.onnx", "matmul+bias", shape, tile, share, "float16", SplitCost(launch), seed)


def test_full_height_tiles_take_two_products(tmp_path):
    cost = SplitCost(launch=1e-4, row=1e-9)
    found, model, mask = check(tmp_path / "m.onnx", "matmul", (256, 96), (16, WHOLE), 0.5, "float16", cost)
    assert (len(found.parts), found.sparse_weights) == (2, 4 * mask.pattern.size)
    assert Counter(node.op_type for node in model.graph)["Gather"] == 1, "of the rows of Y"


def test_old_opset(tmp_path):
    _, model, _ = check(tmp_path / "m.onnx", "matmul", (64, 64), (32, 32), 0.5, "float16", opset=20)
    assert model.opset_imports[""] == 20


def test_two_four_holds_in_what_is_written(tmp_path):
    found, _, _ = check(tmp_path / "m.onnx", "matmul", (64, 128), (16, WHOLE), 0.5, "float16")
    written = onnx.load(tmp_path / "m.onnx").graph
    convolutions = {node.input[1] for node in written.node if node.op_type == "Conv"}
    parts = [onnx.numpy_helper.to_array(t) for t in written.initializer if t.name in convolutions]
    assert parts and sum(part.size for part in parts) == found.sparse_weights
    for part in parts:
        assert part.shape[2:] == (1, 1)
        assert (np.count_nonzero(part.reshape(len(part), -1, 4), axis=-1) <= 2).all()


def test_parts_that_break_2_4_stop_writing(tmp_path, monkeypatch):
    """The check reads the written values, so a fault in masking can't escape it."""
    from patch_compile.passes.lowering import split_linears

    monkeypatch.setattr(split_linears, "masked_weight", lambda weight, keep: weight)
    mask, _ = random_mask((64, 64), (32, 32), 1.0, 0)
    model = linear("matmul", (64, 64), "float16")
    split(model, mask, random_weight((64, 64), np.float16, 0))
    with refused(InvariantError):
        write_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_are_read_once_when_written(tmp_path):
    mask, _ = random_mask((64, 64), (16, WHOLE), 0.5, 0)
    model, read = linear("matmul", (64, 64), "float16"), []

    def weight(name):
        read.append(name)
        return random_weight((64, 64), np.float16, 0)

    plan = {"a": plan_linear("a", mask).changed(lowering="split")}
    splitting = SplitLinearsPass(plan, {"a": mask}, weight, ir.DataType.FLOAT16)
    assert splitting(model).modified and not read
    assert len(splitting.splits["a"].parts) > 1
    write_onnx(model, tmp_path / "m.onnx")
    assert read == ["a.weight"]


class TestRequiresAndEnsures:
    @pytest.fixture
    def mask(self):
        return random_mask((64, 64), (32, 32), 0.5, 0)[0]

    def splitting(self, mask, name="a", dtype=ir.DataType.FLOAT16):
        plan = {name: plan_linear(name, mask).changed(lowering="split")}
        return SplitLinearsPass(plan, {name: mask}, lambda _: None, dtype)

    def test_a_linear_that_is_not_in_the_graph(self, mask):
        with refused(ir.passes.PreconditionError):
            self.splitting(mask, "c")(linear("matmul", (64, 64), "float16"))

    def test_another_shape_or_type(self, mask):
        for shape, dtype in (((64, 32), ir.DataType.FLOAT16), ((64, 64), ir.DataType.BFLOAT16)):
            with refused(ir.passes.PreconditionError):
                self.splitting(mask, dtype=dtype)(linear("matmul", shape, "float16"))

    def test_a_product_that_went_missing(self, mask):
        model, splitting = linear("matmul", (64, 64), "float16"), self.splitting(mask)
        splitting(model)
        splitting.ensures(model)
        product = next(node for node in model.graph if PART in node.metadata_props)
        del product.metadata_props[PART]
        with refused(ir.passes.PostconditionError):
            splitting.ensures(model)

    def test_linears_of_other_lowerings_are_left_alone(self, mask):
        model = linear("matmul", (64, 64), "float16")
        plan = {"a": plan_linear("a", mask).changed(lowering="dense")}
        assert not SplitLinearsPass(plan, {"a": mask}, lambda _: None, ir.DataType.FLOAT16)(model).modified
        assert [node.op_type for node in model.graph] == ["Transpose", "MatMul"]


class TestW8A8:
    """Linears with static scales."""

    SHAPE = (64, 96)

    @pytest.fixture(params=[0.0, 0.5, 1.0])
    def problem(self, request):
        """Returns mask, weight `[N, K]` on its grid, grid and X `[2, 5, K]`, in fp16."""
        mask, _ = random_mask(self.SHAPE, (16, WHOLE), request.param, 1)
        rng = np.random.default_rng(1)
        scales = np.ldexp(np.float32(1), rng.integers(-9, -6, 64)).astype(np.float32)
        grid = Grid(W8A8, scales, StaticScales(input=2.0**-5, output=2.0**-4))
        weight = grid.values(rng.integers(-128, 128, self.SHAPE).astype(np.int8), np.dtype(np.float16))
        return mask, weight, grid, rng.standard_normal((2, 5, 96)).astype(np.float16)

    def compiled(self, mask, weight, grid, form="matmul+bias"):
        model = linear(form, self.SHAPE, "float16")
        model.graph.initializers["a.bias"].const_value = ir.tensor(np.arange(64, dtype=np.float16) / 8)
        plan = {"a": plan_linear("a", mask, "split", weights=W8A8)}
        assert plan["a"].lowering == "split"
        read = {"a.weight": weight}.__getitem__
        SplitLinearsPass(plan, {"a": mask}, read, ir.DataType.FLOAT16, {"a": grid})(model)
        return model

    @pytest.mark.parametrize("form", ["matmul+bias", "gemm+bias"])
    def test_integers_are_multiplied_and_rounded(self, problem, form, tmp_path):
        mask, weight, grid, x = problem
        x = x[0] if form.startswith("gemm") else x
        y = run(self.compiled(mask, weight, grid, form), tmp_path / "m.onnx", x)
        integers = np.clip(np.rint(x.astype(np.float64) * 32), -128, 127)
        kept = np.where(mask.keep(), grid.integers(weight), 0) * grid.scales[:, None].astype(np.float64)
        exact = np.clip(integers @ kept.T / 32 + np.arange(64) / 8, -8, 127 / 16)
        roundoff = 2.0**-10 * (np.abs(integers) @ np.abs(kept).T / 32 + 8)
        assert (np.abs(y - exact) <= 1 / 32 + roundoff).all()
        np.testing.assert_array_equal(y * 16, np.rint(y * 16))
        assert (np.abs(y) < 7.9).mean() > 0.5, "most outputs do not overflow"

    def test_weights_are_written_as_integers(self, problem, tmp_path):
        mask, weight, grid, _ = problem
        model = self.compiled(mask, weight, grid)
        write_onnx(model, tmp_path / "m.onnx")
        written = {
            t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer
        }
        parts = {name: array for name, array in written.items() if name.endswith(("/dense", "/sparse"))}
        kept = np.where(mask.keep(), grid.integers(weight), 0)
        assert sum(array.size for array in parts.values()) == kept.size
        assert all(array.dtype == np.int8 for array in parts.values())
        assert (
            sum(np.abs(array.astype(int)).sum() for array in parts.values()) == np.abs(kept.astype(int)).sum()
        )

    def test_outputs_without_scales_stay_in_16_bits(self, problem, tmp_path):
        mask, weight, grid, _ = problem
        grid = replace(grid, activations=StaticScales(input=0.5))
        model = self.compiled(mask, weight, grid)
        (rounding,) = [node for node in model.graph if node.op_type == "QuantizeLinear"]
        assert rounding.inputs[0].producer().op_type == "Reshape", "of X only"

    def test_dynamic_scales_are_refused(self, problem):
        mask, weight, grid, _ = problem
        with refused(ir.passes.PreconditionError):
            self.compiled(mask, weight, replace(grid, activations=None))


def test_linears_of_one_input_share_its_rounding(tmp_path):
    mask, _ = random_mask((32, 32), (16, WHOLE), 1.0, 0)
    model = graph_of(
        "agraph (float16[batch, 32] x, float16[32, 32] a, float16[32, 32] b) => (float16[batch, 32] y, float16[batch, 32] z)"
        " { v = Transpose <perm = [1, 0]> (a) y = MatMul (x, v) w = Transpose <perm = [1, 0]> (b) z = MatMul (x, w) }"
    )
    for name in "ab":
        value = next(v for v in model.graph.inputs if v.name == name)
        model.graph.inputs.remove(value)
        value.name = f"{name}.weight"
        model.graph.initializers[value.name] = value
    grid = Grid(W8A8, np.ones(32, np.float32), StaticScales(input=0.5))
    plan = {name: plan_linear(name, mask, "split", weights=W8A8) for name in "ba"}
    zeros = {f"{name}.weight": np.zeros((32, 32), np.float16) for name in "ab"}
    splitting = SplitLinearsPass(
        plan,
        dict.fromkeys("ab", mask),
        zeros.__getitem__,
        ir.DataType.FLOAT16,
        dict.fromkeys("ab", grid),
    )
    splitting(model)
    run(model, tmp_path / "m.onnx", np.ones((3, 32), np.float16))
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 1


def test_outputs_in_16_bits_get_no_two_four_part():
    mask, _ = random_mask((32, 32), (16, WHOLE), 1.0, 0)
    grid = Grid(W8A8, np.ones(32, np.float32), StaticScales(input=0.5))
    made = {"method": "", "seed": 0, "base_model": "", "base_sha256": "", "ratio_asked": 0.5}
    masks = MaskSet({"a": mask}, **made, grids={"a": grid})
    (plan,) = plan_linears(masks, "split", weights={"a": W8A8}).values()
    assert plan.split == SplitRow(products=1, sparse_weights=0)
    model, zeros = linear("matmul", (32, 32), "float16"), {"a.weight": np.zeros((32, 32), np.float16)}
    SplitLinearsPass({"a": plan}, masks, zeros.__getitem__, ir.DataType.FLOAT16, {"a": grid})(model)
    assert {node.metadata_props[PART] for node in model.graph if PART in node.metadata_props} == {"dense"}
