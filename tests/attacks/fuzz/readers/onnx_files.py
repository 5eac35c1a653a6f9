"""Readers of ONNX files, and of the inputs that they are run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.onnx_io.feeds import feeds_from_npz
from patch_compile.onnx_io.graph_inputs import GraphInput
from patch_compile.recipe import Recipe
from patch_compile.sources.onnx_model.facts import examine
from tests.attacks.fuzz.mutations import change_npz, change_onnx
from tests.attacks.fuzz.reader import Reader, placed

_INPUTS = (GraphInput("ids", ("batch", 4)), GraphInput("x", ("batch", 8)), GraphInput("scale", ()))
_DTYPES = {"ids": np.dtype(np.int64), "x": np.dtype(np.float32), "scale": np.dtype(np.float32)}


def _source(data: bytes, folder: Path) -> None:
    examine(Recipe.parse({"model": _beside_its_data(data, folder), "ratio": 0.4}))


def _inspected(data: bytes, folder: Path) -> None:
    inspect_onnx(_beside_its_data(data, folder))


def _beside_its_data(data: bytes, folder: Path) -> Path:
    placed(folder, "data.bin", bytes(range(256)) * 16)
    return placed(folder, "model.onnx", data)


def _inputs(data: bytes, folder: Path) -> None:
    feeds = feeds_from_npz(placed(folder, "inputs.npz", data), _INPUTS, _DTYPES)
    for feed in feeds:
        assert {name: array.dtype for name, array in feed.items()} == _DTYPES


READERS = (
    Reader("onnx", _source, change_onnx),
    Reader("onnx-inspect", _inspected, change_onnx),
    Reader("inputs-npz", _inputs, change_npz),
)
