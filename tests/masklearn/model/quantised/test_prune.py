"""Pruned checkpoints and imported masks of quantised models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from masklearn.importers.importing import import_masks
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.prune import write_pruned_checkpoint
from tests.masklearn.edits import edited_weights
from tests.masklearn.mask_sets import random_masks
from tests.masklearn.model.quantised.writers import awq, compressed_tensors, gptq, scheme

_SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}


@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_the_pruned_checkpoint_is_an_ordinary_one(make_model: Any, tmp_path: Path, shard: str) -> None:
    path: Path = make_model(shard="5GB", dtype=torch.float16, **_SIZES)
    gptq(path, 4, 64)
    if shard != "5GB":
        _split(path)
    (path / "quantize_config.json").write_text("{}")
    checkpoint = Checkpoint.open(path)
    coverage = covered_linears_of(checkpoint)
    masks, out = random_masks(coverage.linears, (64, 64)), tmp_path / "pruned"
    write_pruned_checkpoint(checkpoint, masks, out)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert not (out / "quantize_config.json").exists()
    pruned = Checkpoint.open(out)
    assert not pruned.quantised and pruned.names() == checkpoint.names()
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float16).state_dict()
    for name in checkpoint.names():
        linear, expected = name.removesuffix(".weight"), checkpoint.torch(name)
        if linear in masks:
            expected = expected * torch.from_numpy(masks[linear].keep())
            checkpoint.grids[linear].integers(pruned.read(name))  # it stays on the grid
        assert torch.equal(model[name], expected), name
    if shard != "5GB":
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(pruned.names())
        assert index["metadata"]["total_size"] == pruned.bytes()


def _split(path: Path) -> None:
    """Divide the one shard by tensors, so that integers and scales of a weight lie in different files."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    files = {name: f"model-{i % 3}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        of_file = {name: tensor for name, tensor in tensors.items() if files[name] == file}
        save_file(of_file, path / file, {"format": "pt"})
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize(
    "write", [lambda path: compressed_tensors(path, scheme(4, 64)), lambda path: awq(path, 128)]
)
def test_imported_quantised_masks_bring_their_grids(make_model: Any, write: Any) -> None:
    path: Path = make_model(dtype=torch.bfloat16, **_SIZES)
    with edited_weights(path) as tensors:
        for name in tensors:
            if "_proj" in name:
                tensors[name][:, 1::4] = tensors[name][:, 2::4] = 0
    write(path)
    checkpoint = Checkpoint.open(path)
    coverage = covered_linears_of(checkpoint)
    masks = import_masks(path, checkpoint, coverage, tile=(64, 64))
    assert masks.ratio == 0.5 and set(masks.grids) == set(coverage.linears)
    for name, grid in masks.grids.items():
        np.testing.assert_array_equal(grid.scales, checkpoint.grids[name].scales)
        assert not grid.integers(checkpoint.read(f"{name}.weight"))[~masks[name].keep()].any()
