"""A reduced linear computes the same as in the whole graph, and its own error is reported."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from patch_compile.recipe import Recipe
from patch_compile.verification.reduce import reduce_linear
from tests.builds import TINY, build
from tests.commands import run_here
from tests.conftest import texts_in, write_model
from tests.refusals import refused
from tests.sources.onnx_model import graphs

Q, GATE, DOWN = (f"model.layers.0.{name}" for name in ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"))
LOWERING = "*=plugin,o_proj=split,layers.1.mlp.*=dense"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of packed, split and dense linears."""
    folder = tmp_path_factory.mktemp("built")
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
    model = write_model(folder / "model", model_type="llama", **sizes)
    out = folder / "out"
    build({"model": model, **texts_in(folder), "out": out, "ratio": 0.4, **TINY, "lowering": LOWERING})
    return out


def run(folder: Path, name: str) -> dict[str, Any]:
    session = ort.InferenceSession(str(folder / name))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(np.load(folder / "inputs.npz"))), strict=True))


@pytest.mark.parametrize(("linear", "inputs", "linears"), [
    (Q, 1, (Q, Q.replace("q_proj", "k_proj"), Q.replace("q_proj", "v_proj"))),
    (GATE, 1, (GATE, GATE.replace("gate", "up"))),
    (DOWN, 2, (DOWN,)),  # the second is the residual
    (Q.replace("q_proj", "o_proj"), 1, (Q.replace("q_proj", "o_proj"),)),
])  # fmt: skip
def test_reduced_linears_equal_the_graph(
    out: Path, tmp_path: Path, linear: str, inputs: int, linears: tuple[str, ...]
) -> None:
    found = reduce_linear(out, linear, tmp_path / "one")
    assert len(found.inputs) == inputs and found.linears == linears
    assert found.passed and found.error is not None and found.error <= found.tolerance
    hybrid, dense = (run(tmp_path / "one", name) for name in ("hybrid.onnx", "dense.onnx"))
    whole = np.load(tmp_path / "one" / "outputs.npz")
    assert set(whole) == set(hybrid) == set(dense) == set(found.outputs)
    for name in (
        whole
    ):  # ONNX Runtime may join the last operation with what follows in the whole graph, without its rounding
        scale = np.abs(whole[name]).max()
        assert np.abs(hybrid[name] - whole[name]).max() <= scale * np.finfo(np.float16).eps
        assert np.abs(dense[name] - whole[name]).max() <= scale * found.tolerance
    operators = {node.op_type for node in onnx.load(tmp_path / "one" / "dense.onnx").graph.node}
    assert "PatchLinear" not in operators and "MatMul" in operators


def test_onnx_parts_hold_their_casts(tmp_path: Path) -> None:
    """PatchLinear computes in 16 bits: tensors that both graphs share lie around the casts."""
    model = graphs.export(graphs.mlp, tmp_path / "mlp.onnx", dynamo=False)
    settings = {"model": model, "ratio": 0.5, "out": tmp_path / "out", "backend": "onnx", "tile": (64, 64)}
    report = build(settings | {"method": "magnitude", "lowering": "plugin"})
    found = reduce_linear(tmp_path / "out", report["linears"][0]["name"], tmp_path / "one")
    assert found.passed
    hybrid, whole = run(tmp_path / "one", "hybrid.onnx"), np.load(tmp_path / "one" / "outputs.npz")
    assert {name: array.dtype for name, array in hybrid.items()} == dict.fromkeys(whole, np.float32)
    assert all(np.allclose(hybrid[name], whole[name], rtol=1e-3, atol=1e-3) for name in whole)


def test_the_printed_command_runs_the_linear(out: Path, tmp_path: Path) -> None:
    printed = run_here("debug", "reduce", out, "--linear", DOWN, "-o", tmp_path / "one")
    error, files, command = printed.stdout.splitlines()
    assert printed.returncode == 0 and error.startswith(f"{DOWN}, plugin: error ") and files.endswith("/one")
    assert error.endswith("; rounding explains it")
    words = shlex.split(command.removeprefix("run it: "))
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("[array(")


def test_the_error_of_a_broken_linear_is_told(out: Path, tmp_path: Path) -> None:
    """A failed build leaves OUT.partial, without a manifest."""
    failed = Path(shutil.copytree(out, tmp_path / "out.partial"))
    (failed / "manifest.json").unlink()
    data = failed / "onnx" / "model.onnx.data"
    model = onnx.load(failed / "onnx" / "model.onnx", load_external_data=False)
    (slabs,) = [tensor for tensor in model.graph.initializer if tensor.name == f"{DOWN}.sparse"]
    place = {
        entry.key: int(entry.value) for entry in slabs.external_data if entry.key in ("offset", "length")
    }
    content = bytearray(data.read_bytes())
    content[place["offset"] : place["offset"] + 256] = bytes(256)
    data.unlink()
    data.write_bytes(content)
    found = reduce_linear(tmp_path / "out", DOWN, tmp_path / "one")
    assert not found.passed and found.error is not None and found.error > found.tolerance
    assert reduce_linear(tmp_path / "out", GATE, tmp_path / "other").passed


@pytest.mark.parametrize("linear", [
    "model.layers.1.mlp.up_proj",
    "lm_head.nothing"
])  # fmt: skip
def test_other_linears_are_refused(out: Path, tmp_path: Path, linear: str) -> None:
    with refused():
        reduce_linear(out, linear, tmp_path / "one")
    assert not (tmp_path / "one").exists()


def test_a_linear_of_w8a8_is_compared_with_rounded_inputs(out: Path, tmp_path: Path) -> None:
    """Its dense form rounds X to int8 too."""
    recipe = Recipe.load(out / "recipe.yaml")
    build(recipe | {"lowering": "plugin", "weights": "w8a8", "out": tmp_path / "out"})
    for linear in (Q, GATE, DOWN):
        found = reduce_linear(tmp_path / "out", linear, tmp_path / linear)
        assert found.passed and found.error is not None
        assert any(node.op_type == "Round" for node in onnx.load(tmp_path / linear / "dense.onnx").graph.node)
