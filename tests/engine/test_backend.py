import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patch_compile.engine.backend import (
    BackendName,
    TensorRtApi,
    available_backends,
    default_backend,
    load_backend,
)
from patch_compile.engine.plugin_library import VARIABLE, name_cublaslt
from patch_compile.hardware.cards import ARCHITECTURES, parse_architectures
from tests.refusals import refused

ROOT = Path(__file__).parents[2]


def without_gpu(code):
    """Run code in a process to which a driver shows no GPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_onnx_is_always_there_and_comes_last():
    assert available_backends()[-1] is BackendName.ONNX
    name, reason = default_backend()
    assert name is available_backends()[0]
    assert reason and "\n" not in reason


@pytest.mark.rtx
def test_tensorrt_without_a_gpu_says_what_works():
    result = without_gpu(
        "from patch_compile.engine.backend import default_backend, load_backend\n"
        "from patch_compile.errors import PatchCompileError\n"
        "try:\n    load_backend('tensorrt')\n"
        "except PatchCompileError as error:\n    print(error.exit_code, error)\n"
        "print(default_backend())\n"
    )
    error, default = result.stdout.splitlines()
    assert error.startswith("1 --backend tensorrt can't be used here. tensorrt needs a GPU")
    assert "Use --backend tensorrt-rtx or onnx, which works here" in error
    assert "tensorrt-rtx" in default and "works here" in default and "no GPU answers" in default


def test_onnx_builds_no_engine():
    with refused():
        load_backend("onnx")


@pytest.mark.rtx
def test_the_module_has_what_its_type_says():
    """Types come from full TensorRT's stubs; RTX has the same constructors and enums."""
    trt = load_backend("tensorrt-rtx").trt
    names = {*TensorRtApi.__annotations__, "get_plugin_registry"}
    assert len(names) > 10 and not [name for name in names if not hasattr(trt, name)]


@pytest.mark.rtx
class TestRtx:
    def test_targets_are_those_of_the_library(self, rtx):
        names = {target.name for target in rtx.targets()}
        assert {"sm80", "sm86", "sm89", "sm120"} <= names <= {row.name for row in ARCHITECTURES}
        assert rtx.builds_ahead

    def test_target_it_lacks(self, rtx):
        rtx.check_targets(parse_architectures("sm86,sm120"))
        missing = next(target for target in ARCHITECTURES if target not in rtx.targets())
        with refused():
            rtx.check_targets((missing,))

    def test_one_backend_and_one_logger_for_the_process(self, rtx):
        assert load_backend("tensorrt-rtx") is rtx
        assert rtx.logger is rtx.logger

    @pytest.mark.parametrize(
        ("severity", "message", "level"),
        [
            ("ERROR", "broken", logging.ERROR),
            ("INTERNAL_ERROR", "broken", logging.ERROR),
            ("WARNING", "careful", logging.WARNING),
            ("INFO", "so it is", logging.INFO),
            ("WARNING", "Make sure input input_ids has Int64 binding.", logging.DEBUG),
        ],
    )
    def test_messages_reach_python_logging(self, rtx, caplog, severity, message, level):
        caplog.set_level(logging.DEBUG, "patch_compile.engine.tensorrt")
        rtx.logger.log(getattr(rtx.trt.ILogger.Severity, severity), message)
        assert [(record.levelno, record.message) for record in caplog.records] == [(level, message)]


CUDA_13, CUDA_12 = "nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12"


@pytest.mark.parametrize(
    ("wheels", "named"),
    [((CUDA_13,), CUDA_13), ((CUDA_12,), CUDA_12), ((CUDA_12, CUDA_13), CUDA_13), ((), None)],
)
def test_the_newest_of_the_wheels_is_named_unless_the_user_names_one(monkeypatch, tmp_path, wheels, named):
    for wheel in wheels:
        (tmp_path / wheel).parent.mkdir(parents=True)
        (tmp_path / wheel).touch()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "other"), str(tmp_path)])
    environment = {}
    monkeypatch.setattr("os.environ", environment)
    name_cublaslt()
    assert environment == ({} if named is None else {VARIABLE: str(tmp_path / named)})
    environment[VARIABLE] = "/mine.so"
    name_cublaslt()
    assert environment == {VARIABLE: "/mine.so"}
