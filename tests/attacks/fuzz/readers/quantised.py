"""Readers of quantised checkpoints: their tensors, and what config.json says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from masklearn.base.shard import dtype_code, write_shard
from masklearn.model.checkpoint import Checkpoint
from patch_compile.errors import PatchCompileError
from tests.attacks.fuzz.mutations import change_json, change_safetensors
from tests.attacks.fuzz.quantised import CONFIGS, TENSORS
from tests.attacks.fuzz.reader import Reader, placed


def _tensors(data: bytes, folder: Path) -> None:
    """Read a shard beside the config of each format, of which at most one is its own."""
    shard, refused = placed(_model(folder), "model.safetensors", data), None
    for about in CONFIGS.values():
        placed(shard.parent, "config.json", json.dumps({"quantization_config": about}).encode())
        try:
            _read_all(shard.parent)
            return
        except PatchCompileError as error:
            refused = error
    assert refused is not None
    raise refused


def _config(data: bytes, folder: Path) -> None:
    """Read a config beside the shard of each format."""
    model, refused = placed(_model(folder), "config.json", data).parent, None
    for tensors in TENSORS.values():
        specs = {name: (dtype_code(array.dtype), array.shape) for name, array in tensors.items()}
        write_shard(model / "model.safetensors", specs, tensors.__getitem__, {})
        try:
            _read_all(model)
            return
        except PatchCompileError as error:
            refused = error
    assert refused is not None
    raise refused


def _model(folder: Path) -> Path:
    model = folder / "quantised"
    model.mkdir(exist_ok=True)
    return model


def _read_all(model: Path) -> None:
    checkpoint = Checkpoint.open(model)
    for name in checkpoint.names():
        assert checkpoint.read(name).shape == checkpoint.shape(name)
    for linear, grid in checkpoint.grids.items():
        weight = checkpoint.read(f"{linear}.weight")
        if np.isfinite(weight.astype(np.float32)).all():
            grid.integers(weight)


READERS = (
    Reader("quantised", _tensors, change_safetensors),
    Reader("quantisation", _config, change_json),
)
