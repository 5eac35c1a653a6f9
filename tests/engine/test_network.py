import io

import pytest

from patch_compile.artifacts.engine import SparseTactics
from patch_compile.engine.network import (
    BuildJob,
    Cancellation,
    sparse_tactics,
    write_engine,
)
from patch_compile.engine.profiles import profiles_from_onnx
from patch_compile.hardware.cards import parse_architectures
from tests.engine import graphs

FOUND = "(Sparsity) Found 196 layer(s) eligible to use sparse tactics: /model/layers.0/q_proj/MatMul, /lm_head/MatMul"
OTHER = "Total Activation Memory: 7864832"
CHOSE = "(Sparsity) Chose 140 layer(s) using sparse tactics: /model/layers.0/q_proj/MatMul"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([FOUND, CHOSE], (196, 140)),
        ([FOUND.partition(":")[0], "(Sparsity) Chose 0 layer(s) using sparse tactics"], (196, 0)),
        ([f"[11/25/2026-10:00:00] [I] [TRT] {FOUND}", f"[V] [TRT] {CHOSE}\n"], (196, 140)),
        ([FOUND], (196, None)),
        ([], (None, None)),
        ([FOUND.replace("196", "7"), CHOSE.replace("140", "5"), FOUND, OTHER, CHOSE], (196, 140)),  # of the last selection
    ],
)  # fmt: skip
def test_counts(lines, expected):
    eligible, chosen = expected
    assert sparse_tactics(lines) == SparseTactics(eligible=eligible, chosen=chosen)


@pytest.mark.rtx
@pytest.mark.parametrize("severity", ["VERBOSE", "INFO"])
def test_what_is_logged_about_sparsity_is_returned(tmp_path, rtx, severity):
    """RTX logs no such lines, so full TensorRT's lines are sent through the same logger during a build."""
    path = graphs.write_two_gemms(tmp_path / "m.onnx")
    job = BuildJob(rtx, path, parse_architectures("sm86"), profiles_from_onnx(path), None)
    level = getattr(rtx.trt.ILogger.Severity, severity)
    lines = [FOUND, OTHER, CHOSE]

    def progress(*_step):
        while lines:
            rtx.logger.log(level, lines.pop(0))
        return True

    engine = io.BytesIO()
    assert write_engine(job, engine, progress, Cancellation()) == (FOUND, CHOSE)
    assert engine.tell() > 0
    assert write_engine(job, io.BytesIO(), None, Cancellation()) == ()
    rtx.logger.log(level, FOUND)  # lines between builds are not kept
