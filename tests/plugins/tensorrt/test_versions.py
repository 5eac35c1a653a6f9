"""One plugin, compiled with the headers of TensorRT 10 or of any, registers itself in TensorRT 10 and 11.

These are real libraries: the dispatch runtime of TensorRT is small, has the registry of the full library, and needs no GPU
for it. NVIDIA's Python bindings of the same version say what the registry holds.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patch_compile.plugin.build import build_plugin
from tests.plugins.dense_path_cases import MARKS

# `make tensorrt-versions` installs one version in each folder.
VERSIONS = sorted(Path(".cache/tensorrt-versions").resolve().glob("*.*[0-9]"))
INSTALLED = importlib.util.find_spec("tensorrt_dispatch_bindings")
pytestmark = MARKS
REGISTERED = [["PatchLinear", "3"]]

# Loads TensorRT and the plugin, and prints a line of JSON. An attribute that is wrong gives a message, and no plugin.
SESSION = """
import ctypes, glob, json, os, sys
how, library, folder = sys.argv[1:]
if folder:
    sys.path.insert(0, folder)
import importlib.util
libs = importlib.util.find_spec("tensorrt_dispatch_libs").submodule_search_locations[0]
for found in glob.glob(libs + "/libnvinfer_dispatch.so.*"):
    ctypes.CDLL(found)
import tensorrt_dispatch_bindings as trt
import numpy as np

registry = trt.get_plugin_registry()
if how == "dlopen":
    ctypes.CDLL(library)
elif how == "load_library":
    registry.load_library(library)
elif how == "twice":
    ctypes.CDLL(library)
    registry.load_library(library)
said = {"version": trt.__version__, "registered": [[c.name, c.plugin_version] for c in registry.all_creators]}
if said["registered"]:
    creator = registry.get_creator("PatchLinear", "3", "")
    index = np.array([0, 1, 1, 0, 0, 1, 0, 0], np.int32)
    fields = {"in_features": 64, "out_features": 100, "panel_rows": 64}
    given = [trt.PluginField(n, np.array([v], np.int32), trt.PluginFieldType.INT32) for n, v in fields.items()]
    given.append(trt.PluginField("kinds", np.frombuffer(b"dense,2:4", np.int8), trt.PluginFieldType.CHAR))
    given.append(trt.PluginField("index", index, trt.PluginFieldType.INT32))
    create = lambda name, said: creator.create_plugin(name, trt.PluginFieldCollection(said), trt.TensorRTPhase.BUILD)
    made = [create("whole", given), create("half", given[:2])]
    said["created"] = [one is not None for one in made]
    core = made[0].get_capability_interface(trt.PluginCapabilityType.CORE)
    build = made[0].get_capability_interface(trt.PluginCapabilityType.BUILD)
    said["plugin"] = [core.plugin_name, core.plugin_version, build.num_outputs]
print(json.dumps(said), flush=True)
os._exit(0)  # the runtime's destructors need a GPU
"""


@pytest.fixture(scope="module")
def library() -> Path:
    return build_plugin("tensorrt").path


def session(folder: Path | None, how: str, library: Path, **environment: str) -> tuple[dict, str]:
    command = [sys.executable, "-c", SESSION, how, str(library), str(folder or "")]
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean | {"OMP_NUM_THREADS": "1"} | environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(params=[None, *VERSIONS], ids=["installed", *(folder.name for folder in VERSIONS)])
def folder(request) -> Path | None:
    if request.param is None and INSTALLED is None:
        pytest.skip("tensorrt-dispatch-cu13-bindings is not installed")
    return request.param


@pytest.mark.parametrize("how", ["dlopen", "load_library", "twice"])
def test_it_registers_and_creates_plugins(folder, how, library):
    said, log = session(folder, how, library)
    assert said["registered"] == REGISTERED
    assert said["created"] == [True, False] and "half: panel_rows must be 64 or 128" in log
    assert said["plugin"] == ["PatchLinear", "3", 1]
    if folder is not None:
        assert said["version"] == folder.name


def test_preloaded_with_tensorrt_it_registers(folder, library):
    spec = importlib.util.find_spec("tensorrt_dispatch_libs")
    libs = folder / "tensorrt_dispatch_libs" if folder else Path(spec.submodule_search_locations[0])
    (runtime,) = libs.glob("libnvinfer_dispatch.so.*")
    said, _ = session(folder, "preloaded", library, LD_PRELOAD=f"{library} {runtime}")
    assert said["registered"] == REGISTERED


def test_other_backends_plugins_leave_the_registry(folder):
    said, _ = session(folder, "dlopen", build_plugin("tensorrt-rtx").path)
    assert said["registered"] == []
