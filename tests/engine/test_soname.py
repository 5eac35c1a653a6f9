import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patch_compile.engine.soname import answer_to_unversioned_name, name_only_library
from tests.refusals import refused

ROOT = Path(__file__).parents[2]


def test_libraries_answer_to_their_soname(tmp_path):
    path = tmp_path / "anything.so"
    path.write_bytes(
        name_only_library("libnamed_by_test.so", "libm.so.6", 62 if os.uname().machine == "x86_64" else 183)
    )
    ctypes.CDLL(str(path))
    path.unlink()
    assert ctypes.CDLL("libnamed_by_test.so").cos is not None


def test_library_that_is_not_loaded():
    with refused():
        answer_to_unversioned_name("libnot_loaded.so")


@pytest.mark.rtx
def test_rtx_answers_with_its_own_registry():
    code = """
import ctypes
from patch_compile.engine.backend import load_backend
load_backend("tensorrt-rtx").let_parser_meet_plugins()
load_backend("tensorrt-rtx").let_parser_meet_plugins()
address = lambda name: ctypes.cast(ctypes.CDLL(name).getPluginRegistry, ctypes.c_void_p).value
assert address("libtensorrt_rtx.so") == address("libtensorrt_rtx.so.1")
"""
    environment = {**os.environ, "PATH": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
