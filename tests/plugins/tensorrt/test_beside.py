"""The ways in which samples/edgellm puts the plugin beside another plugin library, in a process with TensorRT-RTX."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patch_compile.plugin.build import build_plugin
from tests.plugins.dense_path_cases import MARKS

pytestmark = [pytest.mark.rtx, *MARKS]
# As Edge-LLM's loader, it loads one library behind TensorRT, or none.
SHOW = """
import ctypes, os, sys
import tensorrt_rtx
if path := os.environ.get("EDGELLM_PLUGIN_PATH"):
    ctypes.CDLL(path, mode=os.RTLD_LAZY)
print("PatchLinear" in [one.name for one in tensorrt_rtx.get_plugin_registry().all_creators])
"""


@pytest.fixture(scope="module")
def ours() -> Path:
    return build_plugin("tensorrt-rtx").path


@pytest.fixture(scope="module")
def tensorrt() -> Path:
    import tensorrt_rtx_libs

    return Path(tensorrt_rtx_libs.__path__[0]) / "libtensorrt_rtx.so.1"


def registered(tensorrt: Path, **environment: str) -> bool:
    """True if PatchLinear is in the registry of a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env=clean | {"LD_LIBRARY_PATH": str(tensorrt.parent)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() == "True"


def test_preloaded_with_tensorrt_it_registers(ours, tensorrt):
    assert registered(tensorrt, LD_PRELOAD=f"{ours} {tensorrt.name}")


def test_preloading_needs_tensorrt_first(ours, tensorrt):
    assert not registered(tensorrt, LD_PRELOAD=str(ours))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_a_library_that_needs_both_registers(ours, tensorrt, tmp_path):
    theirs, both = tmp_path / "libtheirs.so", tmp_path / "libboth.so"
    for library, needed in ((theirs, [tensorrt]), (both, [ours, theirs])):
        subprocess.run(
            ["gcc", "-shared", "-o", library, "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed", *needed],
            input="\n",
            text=True,
            check=True,
        )
    assert registered(tensorrt, EDGELLM_PLUGIN_PATH=str(both))
