"""Models run in a process of their own: its answers, its errors, and its end."""

import os
import select
import signal
from contextlib import closing

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from patch_compile.onnx_io.own_process import _OwnModel, check_runs, run_model
from patch_compile.onnx_io.session import open_session, run_session
from patch_compile.onnx_io.time_limit import VARIABLE
from patch_compile.python_process import _send
from tests.refusals import refused
from tests.sources.onnx_model import graphs

X = {"x": np.ones((2, 4), np.float32)}


@pytest.fixture
def doubled(tmp_path):
    nodes = [helper.make_node("Add", ["x", "x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return graphs.save(tmp_path / "m.onnx", nodes, x=("batch", 4))


def test_outputs_by_name_and_inputs_among_them(doubled):
    first, second = run_model(doubled, [X, {"x": -X["x"]}], ["y", "x"])
    assert first["y"].tolist() == (2 * X["x"]).tolist()
    assert second["x"].tolist() == (-X["x"]).tolist() and not second["y"].any()


def test_process_errors_reach_the_caller(doubled):
    with refused():
        list(run_model(doubled, [{"x": np.ones((2, 5), np.float32)}]))
    doubled.write_bytes(b"no model")
    with refused():
        list(run_model(doubled, []))


def test_what_helps_depends_on_the_caller(doubled):
    with refused():
        check_runs(doubled, {"x": np.ones((2, 5), np.float32)}, "Do that.")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGSEGV, id="SIGSEGV"), pytest.param(signal.SIGKILL, id="SIGKILL")]
)
def test_a_crash_is_an_error(doubled, number):
    with closing(_OwnModel(doubled, "Do this.")) as model:
        os.kill(model._process._process.pid, number)
        with refused():
            model.run(X, None)


def test_stalled_processes_are_ended(doubled):
    """The answer is larger than what a pipe holds."""
    with closing(_OwnModel(doubled, "")) as model:
        process = model._process
        _send(process._requests, ("run", ({"x": np.ones((2**18, 4), np.float32)}, None)))
        select.select([process._process.stdout], [], [])
        os.kill(process._process.pid, signal.SIGSTOP)
        process._answers.raw._seconds = 0.5
        with refused():
            model.run({}, None)


def test_no_process_is_left(doubled):
    results = run_model(doubled, [X, X])
    next(results)
    process = results.gi_frame.f_locals["model"]._process._process
    results.close()
    assert process.poll() is not None


@pytest.fixture
def endless(tmp_path):
    """A model whose loop takes 2**62 turns."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("c", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, None),
        ],
        [value("d", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)]
    path = graphs.save(tmp_path / "endless.onnx", nodes, x=("batch", 4))
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
    model.graph.initializer.append(helper.make_tensor("go", TensorProto.BOOL, [], [True]))
    onnx.save(model, path)
    return path


def test_a_model_that_never_ends_is_ended(endless, monkeypatch):
    monkeypatch.setenv(VARIABLE, "4")
    with refused():
        check_runs(endless, X, "Do that.")


def test_endless_runs_are_ended(endless, monkeypatch):
    session = open_session(endless)
    binding = session.io_binding()
    binding.bind_cpu_input("x", X["x"])
    binding.bind_output("y", "cpu")
    monkeypatch.setenv(VARIABLE, "0.2")
    for run in (
        lambda: run_session(session, endless, X),
        lambda: session.run_with_iobinding(binding),
    ):
        with refused():
            run()


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf", "1e9"])
def test_seconds_that_are_none(doubled, monkeypatch, given):
    monkeypatch.setenv(VARIABLE, given)
    with refused():
        list(run_model(doubled, []))
