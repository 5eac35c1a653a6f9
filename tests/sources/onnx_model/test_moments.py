"""XᵀX of every linear's inputs, computed by ONNX Runtime."""

import numpy as np
import pytest
import torch
from onnx import helper

from masklearn.stream.moments import second_moment
from patch_compile.artifacts.proof import InputsFile
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.feeds import Feeds, input_dtypes, random_feeds
from patch_compile.onnx_io.graph_inputs import read_inputs
from patch_compile.onnx_io.read import read_onnx
from patch_compile.onnx_io.session import open_session
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.sources.onnx_model import feed as subject
from patch_compile.sources.onnx_model.feed import gather_moments, write_probe
from tests.sources.onnx_model import graphs


def gather(path, folder, feeds=None, threads=None):
    model = read_onnx(path)
    linears = linears_of_file(path, model).linears
    feeds = feeds or random_feeds(path, read_inputs(path), input_dtypes(path, model), {}, seed=0)
    write_probe(model, linears, folder / "probe.onnx")
    assert [value.name for value in model.graph.outputs] == ["y"]  # unchanged
    steps = []
    found = gather_moments(
        folder / "probe.onnx", linears, feeds, folder / "moments", lambda *step: steps.append(step), threads
    )
    assert steps[-1][1] == steps[-1][2]
    return found, feeds


def torch_inputs(make, feeds):
    """X of every `nn.Linear` and 1×1 convolution by name, as rows, recorded by torch's hooks."""
    torch.manual_seed(3)
    model, _ = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    rows: dict[str, list[torch.Tensor]] = {}

    def watch(name, module):
        def hook(_, inputs):
            x = inputs[0].movedim(1, -1) if isinstance(module, torch.nn.Conv2d) else inputs[0]
            rows.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).double())

        module.register_forward_pre_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            watch(name, module)
    with torch.no_grad():
        for feed in feeds:
            model.eval()(torch.from_numpy(feed["x"]))
    return {name: torch.cat(parts) for name, parts in rows.items()}


@pytest.mark.parametrize("model", ["mlp", "conv_net"])
def test_equal_what_torch_computes(exported, tmp_path, model):
    found, feeds = gather(exported(model, True), tmp_path)
    rows = torch_inputs(getattr(graphs, model), feeds)
    for name in found.leaders:
        expected = (rows[name].T @ rows[name]).numpy()
        assert np.allclose(found.read(name), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()), name


def two_heads(path):
    """A graph with two linears of its input and one of the first one's output."""
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


def test_what_does_not_fit_in_memory_is_gathered_in_turns(tmp_path, monkeypatch):
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
    with pytest.raises(PatchCompileError, match="The inputs of second are not finite"):
        gather(path, tmp_path, feeds)


def test_a_model_that_does_not_take_the_inputs(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], "eight"),
        helper.make_node("MatMul", ["r", "a"], ["y"], "fc"),
    ]
    shape = helper.make_tensor("shape", 7, [2], [8, 64])
    path = graphs.save(tmp_path / "m.onnx", nodes, [shape, graphs.tensor("a", 64, 64)])
    with pytest.raises(PatchCompileError, match=r"cannot run probe\.onnx on the inputs") as error:
        gather(path, tmp_path)
    assert "The inputs were x [2, 64]" in error.value.why
    assert "--calib" in error.value.fix


def test_inputs_are_computed_with_the_given_number_of_threads(tmp_path):
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
