"""A runner in a process of its own: its answers, and the errors when it fails or ends."""

import os
from contextlib import closing
from functools import partial

import pytest

from patch_compile.artifacts.bench import Phase
from patch_compile.onnx_io.graph_inputs import read_inputs
from patch_compile.timing.points import Point, feed_of
from patch_compile.timing.timing import OnnxRunner, OwnProcess
from tests.refusals import refused


class Broken:
    """A runner that fails in a way chosen by the phase. It is at module level so that it can be pickled."""

    def refuses(self, make):
        return ""

    def prepare(self, make, phase):
        if phase is Phase.DECODE:
            os._exit(77)
        raise ZeroDivisionError("a bug")

    def close(self):
        pass


def make_at(onnx, point):
    return partial(feed_of, point, read_inputs(onnx), 40)


def test_an_onnx_file_is_timed_in_another_process(built):
    onnx = built("llama") / "onnx/model.onnx"
    with closing(OwnProcess("hybrid", partial(OnnxRunner, onnx))) as runner:
        for point in (Point(Phase.PREFILL, 2, 16), Point(Phase.DECODE, 2, 16)):
            make = make_at(onnx, point)
            assert runner.refuses(make) == ""
            runner.prepare(make, point.phase)
            assert 0 < runner.run() < 10_000
        process = runner._process._process
    assert process.returncode == 0


def test_unloadable_files_are_explained(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with refused():
        OwnProcess("hybrid", partial(OnnxRunner, tmp_path / "model.onnx"))


def test_a_bug_keeps_its_traceback():
    with closing(OwnProcess("dense", Broken)) as runner, pytest.raises(RuntimeError) as caught:
        runner.prepare(dict, Phase.PREFILL)
    assert "in the process of the dense model" in str(caught.value) and "ZeroDivisionError: a bug" in str(
        caught.value
    )


def test_ended_processes_tell_their_exit_code():
    with closing(OwnProcess("dense", Broken)) as runner, refused():
        runner.prepare(dict, Phase.DECODE)
