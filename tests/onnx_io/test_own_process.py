"""Models run in a process of their own: its answers, its errors, and its end."""

import os
import signal

import numpy as np
import pytest
from onnx import helper

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.own_process import _Process, check_loads, check_runs, run_model
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


def test_errors_of_the_process_are_those_of_the_caller(doubled):
    with pytest.raises(PatchCompileError, match=r"cannot run m\.onnx on the inputs") as error:
        list(run_model(doubled, [{"x": np.ones((2, 5), np.float32)}]))
    assert "x [2, 5]" in error.value.why
    doubled.write_bytes(b"no model")
    with pytest.raises(PatchCompileError, match="ONNX Runtime cannot load"):
        check_loads(doubled)


def test_what_helps_depends_on_the_caller(doubled):
    with pytest.raises(PatchCompileError, match="cannot run") as error:
        check_runs(doubled, {"x": np.ones((2, 5), np.float32)}, "Do that.")
    assert error.value.fix == "Do that."


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGSEGV, "ended with signal SIGSEGV"), (signal.SIGKILL, "without free memory")],
)
def test_a_crash_is_an_error(doubled, number, says):
    with _Process(doubled, "Do this.") as process:
        os.kill(process._process.pid, number)
        with pytest.raises(PatchCompileError, match=says) as error:
            process.ask(X, None)
    assert str(doubled) in error.value.what
    assert error.value.fix == "Do this." or number == signal.SIGKILL


def test_no_process_is_left(doubled):
    results = run_model(doubled, [X, X])
    next(results)
    process = results.gi_frame.f_locals["process"]._process
    results.close()
    assert process.poll() is not None
