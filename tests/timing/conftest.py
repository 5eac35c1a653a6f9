"""Tiny builds, each made once, and a copy of one for a test to write to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.builds import TINY, build
from tests.conftest import texts_in, write_model
from tests.sources.onnx_model import graphs

OutOf = Callable[[str], Path]


def _settings(kind: str, root: Path) -> dict:
    if kind == "onnx":
        np.savez(root / "inputs.npz", x=np.ones((3, 2, 6, 64), np.float32))
        model = graphs.export(graphs.encoder, root / "encoder.onnx")
        return {"model": model, "calib": str(root / "inputs.npz"), "tile": (64, 64), "backend": "onnx"}
    model = write_model(root / "model", kind, hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    return {"model": model, **texts_in(root), **TINY}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> OutOf:
    made: dict[str, Path] = {}

    def out(kind: str) -> Path:
        if kind not in made:
            root = tmp_path_factory.mktemp(f"bench-{kind}")
            build({"out": root / "out", "ratio": 0.4, **_settings(kind, root)})
            made[kind] = root / "out"
        return made[kind]

    return out


@pytest.fixture
def out_of(built: OutOf, tmp_path: Path) -> OutOf:
    """out_of(kind) returns a fresh copy of a build; the kinds are "llama", "bert" and "onnx"."""

    def copy(kind: str) -> Path:
        return shutil.copytree(built(kind), tmp_path / f"out-{kind}")

    return copy
