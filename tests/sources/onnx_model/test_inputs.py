"""Every file that a build from an ONNX file reads is changed: between two runs, and in mid-build."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from patch_compile.pipeline.prepare import Job, prepare
from patch_compile.pipeline.stages import keys_of
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Stage
from patch_compile.sources.onnx_model.source import OnnxSource
from tests.builds import build
from tests.inputs import assert_changes_are_named, changed, differences, files_below
from tests.sources.onnx_model import graphs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a file for each of its weights, however small, and inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    proto = onnx.load(graphs.export(graphs.mlp, folder / "model.onnx", dynamo=False))
    onnx.save(
        proto,
        folder / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    x = np.random.default_rng(0).standard_normal((3, 4, 64)).astype(np.float32)
    np.savez(folder / "inputs.npz", x=x)
    assert len(files_below(folder)) == 8
    return folder


def asked(inputs: Path, out: Path) -> dict[str, Any]:
    return {
        "model": inputs / "model.onnx",
        "calib": str(inputs / "inputs.npz"),
        "method": "wanda",
        "ratio": 0.3,
        "tile": (32, 32),
        "backend": "onnx",
        "lowering": "plugin",
        "out": out,
    }


def prepared(recipe: dict[str, Any]) -> Job:
    return prepare(Recipe.parse(recipe), Progress(), force=False, resume=False)


def test_every_file_enters_the_key_of_the_masks(inputs: Path, tmp_path: Path) -> None:
    recipe = asked(inputs, tmp_path / "out")
    first = keys_of(prepared(recipe))[Stage.MASKS]
    for file in files_below(inputs):
        with changed(file):
            assert keys_of(prepared(recipe))[Stage.MASKS] != first, file
    assert keys_of(prepared(recipe))[Stage.MASKS] == first


@pytest.mark.parametrize("name", ["4.bias", "inputs.npz"])
def test_rebuilding_equals_a_clean_run(inputs: Path, tmp_path: Path, name: str) -> None:
    out, clean = tmp_path / "out", tmp_path / "clean"
    build(asked(inputs, out))
    with changed(inputs / name):
        build(asked(inputs, out), force=True)
        build(asked(inputs, clean))
    assert differences(out, clean) == []


def test_a_change_in_mid_build_is_named(inputs: Path, tmp_path: Path) -> None:
    assert_changes_are_named(inputs, OnnxSource, lambda: build(asked(inputs, tmp_path / "out")))
    assert not (tmp_path / "out").exists()
