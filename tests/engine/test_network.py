import io

import pytest

from patch_compile.engine.monitor import Cancellation
from patch_compile.engine.network import BuildJob, write_engine
from patch_compile.engine.profiles import profiles_from_onnx
from patch_compile.hardware.cards import parse_architectures
from tests.engine import graphs

FOUND = "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: gemm0, gemm1"
CHOSE = "(Sparsity) Chose 1 layer(s) using sparse tactics: gemm1"


@pytest.mark.rtx
@pytest.mark.parametrize("severity", ["VERBOSE", "INFO"])
def test_what_is_logged_about_sparsity_is_returned(tmp_path, rtx, severity):
    """RTX logs no such lines, so full TensorRT's lines are sent through the same logger during a build."""
    path = graphs.write_two_gemms(tmp_path / "m.onnx")
    job = BuildJob(rtx, path, parse_architectures("sm86"), profiles_from_onnx(path), None)
    level = getattr(rtx.trt.ILogger.Severity, severity)
    lines = [FOUND, "Total Activation Memory: 7864832", CHOSE]

    def progress(*_step):
        while lines:
            rtx.logger.log(level, lines.pop(0))
        return True

    engine = io.BytesIO()
    assert write_engine(job, engine, progress, Cancellation()) == (FOUND, CHOSE)
    assert engine.tell() > 0
    assert write_engine(job, io.BytesIO(), None, Cancellation()) == ()
    rtx.logger.log(level, FOUND)  # lines between builds are not kept
