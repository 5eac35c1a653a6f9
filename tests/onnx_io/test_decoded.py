"""The decoded copy of a build computes what the build's file computes, and a session may leave its weights in the file."""

import numpy as np
import onnx
import pytest

from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.runnable import decoded_onnx, runnable_onnx
from patch_compile.onnx_io.write import write_onnx
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from tests.builds import build
from tests.graphs import graph_of


@pytest.mark.parametrize(
    "settings_of_the_build",
    [
        pytest.param({}, id="fp16"),
        pytest.param({"kinds": "2:4,8:16", "repair": "none", "method": "oneshot"}, id="8:16"),
        pytest.param({"dtype": "bfloat16"}, id="bf16"),
        pytest.param({"weights": "int8", "repair": "none", "method": "oneshot"}, id="int8"),
        pytest.param({"weights": "w8a8", "repair": "none", "method": "oneshot"}, id="w8a8"),
        pytest.param(
            {"weights": "w8a8", "kinds": "6:8", "ratio": 0.2, "repair": "none", "method": "oneshot"}, id="6:8"
        ),
        pytest.param({"weights": "int4", "repair": "none", "method": "oneshot"}, id="int4"),
    ],
)
def test_decoded_copies_compute_the_same(settings, tmp_path, settings_of_the_build):
    build(settings | settings_of_the_build)
    path = runnable_onnx(settings["out"] / "onnx/model.onnx", tmp_path)
    copy = decoded_onnx(path, tmp_path, lambda *_: None)
    proto = load_proto(copy)
    assert not proto.functions and all(not node.domain for node in proto.graph.node)
    onnx.checker.check_model(str(copy))
    assert not list(tmp_path.rglob(".*.part*"))
    ids = np.random.default_rng(0).integers(2, 20, (2, 9))
    original, decoded, mapped = OnnxDecoder(path), OnnxDecoder(copy), OnnxDecoder(copy, mapped=True)
    expected, cache = original.step(ids, original.empty_cache(2))
    assert np.array_equal(decoded.step(ids, decoded.empty_cache(2))[0], expected)
    read, of_mapped = mapped.step(ids, mapped.empty_cache(2))
    assert np.abs(read - expected).max() < 2e-3 * np.abs(expected).max()
    assert of_mapped.keys() == cache.keys()


def test_files_without_packed_weights_stay_as_they_are(tmp_path):
    path = tmp_path / "model.onnx"
    write_onnx(graph_of("agraph (float16[2, 8] x) => (float16[2, 8] y) { y = Neg (x) }"), path)
    assert decoded_onnx(path, tmp_path, lambda *_: None) == path
