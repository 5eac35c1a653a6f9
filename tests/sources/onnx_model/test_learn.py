"""Second moments of linears' inputs, masks and weights learned for an ONNX file, and the pruned model with them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from masklearn.masks.tiles import tile_weights
from masklearn.stream.moments import second_moment
from patch_compile.artifacts.proof import InputsFile
from patch_compile.onnx_io.compare import answer, compare_answers
from patch_compile.onnx_io.feeds import Feeds, input_dtypes, random_feeds
from patch_compile.onnx_io.graph_inputs import read_inputs
from patch_compile.onnx_io.read import read_onnx
from patch_compile.onnx_io.session import open_session
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.sources.onnx_model import feed as subject
from patch_compile.sources.onnx_model.feed import gather_moments, write_probe
from tests.refusals import refused
from tests.sources.onnx_model import graphs
from tests.sources.onnx_model.learning import learn

METHODS = ("magnitude", "wanda", "sparsegpt", "oneshot")


def weights(path):
    linears = linears_of_file(path, read_onnx(path)).linears
    return {n: linear.from_stored(linear.weight.const_value) for n, linear in linears.items()}


def error(learned, path, folder):
    """Relative error of the pruned model's output."""
    mine, reference = (answer(p, learned.feeds, folder / f"answers-{p.stem}") for p in (learned.pruned, path))
    (difference,) = compare_answers(mine, reference)
    return difference.relative


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["mlp", "conv_net", "encoder"])
def test_only_masked_weights_change(exported, tmp_path, model, method):
    path = exported(model, False)
    learned = learn(path, tmp_path, method=method)
    before, after = weights(path), weights(learned.pruned)
    zeroed = sum(mask.zeroed for mask in learned.masks.values())
    asked = 0.4 * sum(weight.size for weight in before.values())
    assert abs(zeroed - asked) <= 64 * 64 / 4
    for name, mask in learned.masks.items():
        if not mask.tiles.any():
            assert np.array_equal(after[name], before[name])
            continue
        assert not after[name][~mask.keep()].any()
        assert np.array_equal(after[name], after[name].astype(np.float16).astype(np.float32))
        if method in ("magnitude", "wanda"):
            rounded = before[name].astype(np.float16).astype(np.float32)
            assert np.array_equal(after[name], np.where(mask.keep(), rounded, 0))
    others = {t.name: t for t in onnx.load(path).graph.initializer if t.dims != [] and len(t.dims) == 1}
    kept = {t.name: t for t in onnx.load(learned.pruned).graph.initializer}
    for name in others.keys() & kept.keys():
        assert np.array_equal(*(onnx.numpy_helper.to_array(side[name]) for side in (others, kept)))


@pytest.mark.parametrize("method", ["magnitude", "oneshot"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_weights_lie_on_their_grids(exported, tmp_path, method, kind):
    """Linears with dense tiles only are rounded too. The file holds the numbers that are packed, in its own type."""
    learned = learn(exported("encoder", False), tmp_path, method=method, weights=kind, ratio=0.1)
    after = weights(learned.pruned)
    assert {*learned.grids} == {*learned.masks} == {*after}
    assert any(not mask.tiles.any() for mask in learned.masks.values())
    for name, grid in learned.grids.items():
        assert grid.type.name == kind
        integers = grid.integers(after[name].astype(np.float16))
        assert len(np.unique(integers)) > (12 if kind == "int4" else 100)
        assert not integers[~learned.masks[name].keep()].any()


def one_linear(path, values, **options):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    return graphs.save(path, nodes, [onnx.numpy_helper.from_array(values, "w")], **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, bad):
    values = np.ones((64, 64), np.float32)
    values[3, 5] = bad
    with refused():
        learn(one_linear(tmp_path / "m.onnx", values), tmp_path, method="magnitude")


def test_weights_above_the_range_of_fp16(tmp_path):
    values = np.ones((64, 64), np.float32)
    values[3, 5] = 1e5
    path = one_linear(tmp_path / "m.onnx", values)
    with refused():
        learn(path, tmp_path, method="magnitude")
    assert learn(path, tmp_path, method="magnitude", dtype="BFLOAT16", ratio=0.5).masks["fc"].tiles.all()


def test_weights_keep_their_stored_type(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=1),
        helper.make_node("MatMul", ["x", "wide"], ["y"], "fc"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor("w", 64, 64, dtype=np.float16)])
    pruned = read_onnx(learn(path, tmp_path, ratio=0.5).pruned)
    assert pruned.graph.initializers["w"].dtype == ir.DataType.FLOAT16
    assert (pruned.graph.initializers["w"].const_value.numpy() == 0).mean() == 0.5


def gather(path, folder, feeds=None, threads=None):
    model = read_onnx(path)
    linears = linears_of_file(path, model).linears
    feeds = feeds or random_feeds(path, read_inputs(path), input_dtypes(path, model), {}, {}, seed=0)
    write_probe(model, linears, folder / "probe.onnx")
    assert [value.name for value in model.graph.outputs] == ["y"]  # unchanged
    steps = []
    found = gather_moments(
        folder / "probe.onnx", linears, feeds, folder / "moments", lambda *step: steps.append(step), threads
    )
    assert steps[-1][1] == steps[-1][2]
    return found, feeds


def two_heads(path):
    """A graph with two linears that read its input and a third that reads the output of the first."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "q"),
        helper.make_node("MatMul", ["x", "b"], ["r"], "k"),
        helper.make_node("Add", ["p", "r"], ["s"], "add"),
        helper.make_node("MatMul", ["s", "c"], ["y"], "o"),
    ]
    return graphs.save(path, nodes, [graphs.tensor(name, 64, 64) for name in "abc"])


def test_linears_of_one_input_share_a_file(tmp_path):
    found, feeds = gather(two_heads(tmp_path / "m.onnx"), tmp_path)
    assert list(found.leaders) == ["q", "o"]
    x = np.concatenate([feed["x"] for feed in feeds])
    assert np.allclose(found.read("k"), x.T @ x, rtol=1e-5, atol=1e-4)
    assert len(list((tmp_path / "moments").iterdir())) == 2


def test_features_of_a_convolution_are_summed(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "pointwise")]
    path = graphs.save(
        tmp_path / "m.onnx", nodes, [graphs.tensor("w", 8, 64, 1)], x=("batch", 64, "length"), y=("b", 8, "l")
    )
    moments, feeds = gather(path, tmp_path)
    rows = np.concatenate([np.moveaxis(feed["x"], 1, -1).reshape(-1, 64) for feed in feeds])
    assert np.allclose(moments.read("pointwise"), rows.T @ rows, rtol=1e-5, atol=1e-4)


def test_large_moments_are_gathered_in_turns(tmp_path, monkeypatch):
    path = two_heads(tmp_path / "m.onnx")
    whole, feeds = gather(path, tmp_path)
    expected = {name: whole.read(name) for name in "qko"}
    monkeypatch.setattr(subject, "available_memory", lambda _: 0)
    in_turns, _ = gather(path, tmp_path, feeds)
    assert all(np.array_equal(in_turns.read(name), expected[name]) for name in "qko")


def test_inputs_that_are_not_finite_name_the_linear(tmp_path):
    """The first linear's output gives log(0), which is the second linear's input."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"], "first"),
        helper.make_node("Log", ["p"], ["s"], "log"),
        helper.make_node("MatMul", ["s", "b"], ["y"], "second"),
    ]
    path = graphs.save(tmp_path / "m.onnx", nodes, [graphs.tensor(name, 64, 64) for name in "ab"])
    feeds = Feeds(({"x": np.zeros((2, 64), np.float32)},), InputsFile(name="zeros.npz", runs=1))
    with refused():
        gather(path, tmp_path, feeds)


def test_a_model_that_does_not_take_the_inputs(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], "eight"),
        helper.make_node("MatMul", ["r", "a"], ["y"], "fc"),
    ]
    shape = helper.make_tensor("shape", 7, [2], [8, 64])
    path = graphs.save(tmp_path / "m.onnx", nodes, [shape, graphs.tensor("a", 64, 64)])
    with refused():
        gather(path, tmp_path)


def test_inputs_use_the_given_threads(tmp_path):
    """ONNX Runtime divides a ReduceMean over an axis in the middle by the number of its threads, and rounds by that."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["r"], "mean", keepdims=0),
        helper.make_node("MatMul", ["r", "w"], ["y"], "linear"),
    ]
    axis = helper.make_tensor("axis", 7, [1], [1])
    path = graphs.save(
        tmp_path / "m.onnx", nodes, [axis, graphs.tensor("w", 772, 64)], x=(3, 513, 772), y=(3, 64)
    )
    x = np.random.default_rng(1).standard_normal((3, 513, 772)).astype(np.float32)
    feeds = Feeds(({"x": x},), InputsFile(name="x.npz", runs=1))
    for threads in (1, 5):
        session = open_session(tmp_path / "m.onnx", threads=threads)
        assert session.get_session_options().intra_op_num_threads == threads
        found, _ = gather(path, tmp_path, feeds, threads)
        (rows,) = open_session(tmp_path / "probe.onnx", threads=threads).run(["r"], {"x": x})
        assert np.array_equal(found.read("linear"), second_moment(torch.from_numpy(rows)).numpy())


def test_inputs_pay_and_solving_pays_more(exported, tmp_path):
    """On the calibration inputs, scoring with them loses less than without, and solving loses least."""
    lost = {}
    for method in METHODS:
        folder = tmp_path / method
        folder.mkdir()
        path = exported("mlp", True)
        lost[method] = error(learn(path, folder, method=method, ratio=0.5), path, folder)
    assert lost["oneshot"] < lost["sparsegpt"] < lost["wanda"] <= lost["magnitude"] * 1.02


def test_tiles_of_little_output_are_pruned_first(tmp_path):
    """Two linears have equal weights, but the bias of the first leaves the second hardly any input."""
    same = graphs.tensor("w", 64, 64, scale=1.0)
    other = onnx.TensorProto()
    other.CopyFrom(same)
    other.name = "v"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "loud"),
        helper.make_node("Mul", ["x", "steps"], ["scaled"], "scale"),
        helper.make_node("MatMul", ["scaled", "v"], ["b"], "quiet"),
        helper.make_node("Add", ["a", "b"], ["y"], "add"),
    ]
    # Half of the second's features are silent, two of every four, so 2:4 costs it nothing.
    steps = onnx.numpy_helper.from_array(np.tile([1, 0, 1, 0], 16).astype(np.float32), "steps")
    path = graphs.save(tmp_path / "m.onnx", nodes, [same, other, steps])
    for method in ("wanda", "sparsegpt", "oneshot"):
        masks = learn(path, tmp_path, method=method, ratio=0.25).masks
        assert (masks["loud"].tiles.sum(), masks["quiet"].tiles.sum()) == (0, 1), method


@pytest.mark.parametrize("ratio", [0.0, 0.5, "linear1=0.5"])
def test_ratios(exported, tmp_path, ratio):
    masks = learn(exported("encoder", False), tmp_path, ratio=ratio, method="wanda").masks
    for name, mask in masks.items():
        whole = ratio == 0.5 or (ratio != 0.0 and name.endswith("linear1"))
        assert mask.tiles.all() == whole and mask.tiles.any() == whole
        assert mask.tiles.size == tile_weights(mask.shape, (64, 64)).size
