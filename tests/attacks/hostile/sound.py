"""Makes the files that hostile inputs are made from: a tiny checkpoint, its masks and its build, an ONNX model, a text."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from patch_compile.artifacts import layout
from tests.attacks.hostile.case import Sound

_SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}


def make_sound(root: Path) -> Sound:
    """Make the files in `root`, in a process of its own, unless they are there."""
    if not (root / "out" / "report.html").is_file():
        command = [sys.executable, "-m", "tests.attacks.hostile.sound", str(root)]
        subprocess.run(command, check=True, capture_output=True)
    return Sound(root)


def _make(root: Path) -> None:
    from patch_compile.api.bench import bench
    from tests.builds import TINY, build
    from tests.conftest import texts_in, write_model

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    model = root / "model"
    write_model(model, "llama", **_SIZES)
    _write_onnx(root / "model.onnx")
    build(
        {**TINY, "model": model, **texts_in(root), "out": root / "out", "ratio": 0.4,
         "tile": (32, 32), "method": "magnitude", "eval_windows": 1, "eval_length": 16}
    )  # fmt: skip
    point = {"batch_size": [1], "prompt_tokens": [8], "iterations": 1, "warm_up": 1}
    bench(root / "out", runner="onnx", against="none", **point)
    shutil.copyfile(root / "out" / "masks.safetensors", root / "masks.safetensors")
    _plant(root / "planted.so")
    _complete(root / "out")


def _plant(path: Path) -> None:
    """Compile a library that has the identity of the plugin, and writes the canary when it is loaded."""
    code = """#include <cstdio>
#include <cstdlib>
extern "C" const char kIdentity[] = "IDENTITY";
__attribute__((constructor)) static void run() {
  if (const char* canary = std::getenv("HOSTILE_CANARY")) std::fclose(std::fopen(canary, "w"));
}
"""
    from patch_compile.plugin.identity import read_identity
    from tests.plugin.identities import identity_text

    source = path.with_suffix(".cpp")
    source.write_text(code.replace("IDENTITY", identity_text(archs="860").decode().rstrip("\0")))
    subprocess.run(["c++", "-shared", "-fPIC", "-o", path, source], check=True)
    assert read_identity(path).backend == "tensorrt-rtx"


def _complete(out: Path) -> None:
    """Add a verification with an answer to every question, and what looks like an engine, to a build.

    This machine may have no TensorRT, and no GPU to run an engine.
    """
    from patch_compile.artifacts.folder import OutFolder
    from tests.artifacts.examples import engine_report
    from tests.report.page.found import verified
    from tests.report.page.outs import Out

    (out / layout.VERIFY_FOLDER).mkdir()
    verified(Out(out.parent / "verified")).write(out / layout.VERIFY)
    OutFolder.open(out).record("verify", "0", [layout.VERIFY])
    (out / layout.ENGINE_FOLDER).mkdir()
    (out / layout.ENGINE).write_bytes(b"header {\n  accelerators={sm86 }\n}\nmain {\n}\0")
    engine_report(patch_linears=7).write(out / layout.ENGINE_REPORT)
    OutFolder.open(out).record("engine", "0", [layout.ENGINE, layout.ENGINE_REPORT])


def _write_onnx(path: Path) -> None:
    """Two linears and an activation, as other people export them."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(1)
    first, second = (random.standard_normal((64, 64)).astype("float32") for _ in range(2))
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="first_matmul"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Gemm", ["b", "second"], ["y"], name="second_gemm", transB=1),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 64]) for name in "xy")
    weights = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")]
    graph = helper.make_graph(nodes, "stranger", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
