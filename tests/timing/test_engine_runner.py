"""The runner of engines, on an engine and a GPU in host memory: shapes, buffers, and the graph of a decode step."""

from functools import partial

import numpy as np
import pytest

from patch_compile.artifacts.bench import Phase
from patch_compile.onnx_io.graph_inputs import read_inputs
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.timing.engine_runner import EngineRunner
from patch_compile.timing.points import Point, feed_of
from tests.refusals import refused
from tests.runtime.host_engine import HostDevice, HostEngine

PREFILL = {"batch": (1, 1, 4), "sequence": (1, 8, 32), "past": (0, 0, 0)}
DECODE = {"batch": (1, 1, 4), "sequence": (1, 1, 1), "past": (1, 16, 48)}


class TimedHostDevice(HostDevice):
    """A device in host memory, on which all work takes 2.5 ms."""

    def time(self, work):
        work()
        return 2.5


@pytest.fixture
def onnx(built):
    return built("llama") / "onnx/model.onnx"


@pytest.fixture
def runner(onnx):
    device = TimedHostDevice()
    return EngineRunner(HostEngine(onnx, device, [PREFILL, DECODE]), device)


def make_at(onnx, point):
    return partial(feed_of, point, read_inputs(onnx), 40)


@pytest.mark.parametrize("point", [Point(Phase.PREFILL, 3, 20), Point(Phase.DECODE, 3, 20)], ids=str)
def test_engines_equal_onnx_runtime(onnx, runner, point):
    make = make_at(onnx, point)
    assert runner.refuses(make) == ""
    runner.prepare(make, point.phase)
    assert runner.run() == 2.5
    device, context = runner._device, runner._contexts[1 if point.phase is Phase.DECODE else 0]
    rows = np.empty((3, 1, 40), np.float16)
    device.read((context._addresses["logits"], 80), rows.reshape(3, 40))
    decoder, feed = OnnxDecoder(onnx), make()
    cache = {name: a.astype(np.float16) for name, a in feed.items() if name.startswith("past")}
    expected, _ = decoder.step(feed["input_ids"], cache)
    assert np.abs(rows - expected[:, -1:]).max() < 0.01 * np.abs(expected).max()


def test_only_decode_steps_use_graphs(onnx, runner):
    device = runner._device
    runner.prepare(make_at(onnx, Point(Phase.PREFILL, 1, 8)), Phase.PREFILL)
    runner.run()
    assert device.recorded == device.replayed == 0
    runner.prepare(make_at(onnx, Point(Phase.DECODE, 1, 8)), Phase.DECODE)
    runner.run()
    runner.run()
    assert (device.recorded, device.replayed) == (1, 2)


def test_memory_is_given_back(onnx, runner):
    device = runner._device
    runner.prepare(make_at(onnx, Point(Phase.DECODE, 4, 48)), Phase.DECODE)
    large = device.held
    runner.prepare(make_at(onnx, Point(Phase.PREFILL, 1, 4)), Phase.PREFILL)
    assert 0 < device.held < large
    runner.close()
    assert device.held == 0


@pytest.mark.parametrize(
    "point", [Point(Phase.PREFILL, 5, 8), Point(Phase.PREFILL, 1, 33), Point(Phase.DECODE, 1, 49)], ids=str
)
def test_shapes_beyond_profiles_are_refused(onnx, runner, point):
    make = make_at(onnx, point)
    assert "profile 0: input_ids 1×1 … 4×32; profile 1: input_ids 1×1 … 4×1" in runner.refuses(make)
    with refused():
        runner.prepare(make, point.phase)
