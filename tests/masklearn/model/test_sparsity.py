"""config.json of a pruned checkpoint says how it is sparse, in fields that compressed-tensors reads."""

import json

import numpy as np
import pytest
from compressed_tensors.config import SparsityCompressionConfig

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from masklearn.model.prune import write_pruned_checkpoint
from tests.mosaics import random_mask

TILE = (32, 32)


def write(source, out, masks):
    """Write the pruned model, and return the block."""
    found = MaskSet(masks, method="random", seed=0, base_model="x", base_sha256="", ratio_asked=0.25)
    write_pruned_checkpoint(Checkpoint.open(source), found, out)
    config = json.loads((out / "config.json").read_text())
    return found, config.get("sparsity_config")


def zeros(folder):
    """Returns zeros and all weights of a folder."""
    checkpoint = Checkpoint.open(folder)
    arrays = [checkpoint.read(name) for name in checkpoint.names()]
    return sum(int((array == 0).sum()) for array in arrays), sum(array.size for array in arrays)


def test_a_mosaic_is_described_by_what_it_is(make_model, tmp_path):
    source = make_model()
    linears = covered_linears(source).linears
    dense = next(iter(linears))
    masks = {
        name: random_mask(shape, TILE, 0.0 if name == dense else 0.5, i)[0]
        for i, (name, shape) in enumerate(linears.items())
    }
    found, block = write(source, tmp_path / "out", masks)
    read = SparsityCompressionConfig.load_from_registry(block["format"], **block)
    assert read.format == "dense" and read.sparsity_structure == "unstructured"
    assert read.targets == [name for name in found if masks[name].tiles.any()]
    assert dense not in read.targets and read.targets
    zeroed, weights = zeros(tmp_path / "out")
    assert found.zeroed == zeroed and read.global_sparsity == pytest.approx(zeroed / weights)
    mosaic = block["mosaic"]
    assert mosaic["ratio"] == found.ratio and mosaic["tiles"] == {"32x32": len(linears)}
    assert set(mosaic["kinds"]) == {"dense", "2:4"} and sum(mosaic["kinds"].values()) == pytest.approx(1)
    assert mosaic["kinds"]["2:4"] == pytest.approx(2 * found.ratio)


def test_one_kind_of_tiles_is_a_structure(make_model, tmp_path):
    source = make_model()
    masks = {
        name: random_mask(shape, TILE, 1.0, 0)[0] for name, shape in covered_linears(source).linears.items()
    }
    _, block = write(source, tmp_path / "out", masks)
    assert block["sparsity_structure"] == "2:4" and block["mosaic"]["kinds"] == {"2:4": 1.0}


def test_a_model_that_is_pruned_again_has_its_last_block(make_model, tmp_path):
    source = make_model()
    linears = covered_linears(source).linears
    half = {name: random_mask(shape, TILE, 0.5, i)[0] for i, (name, shape) in enumerate(linears.items())}
    _, first = write(source, tmp_path / "half", half)
    whole = {name: random_mask(shape, TILE, 1.0, 0)[0] for name, shape in linears.items()}
    _, second = write(tmp_path / "half", tmp_path / "whole", whole)
    assert first["sparsity_structure"] == "unstructured" and second["sparsity_structure"] == "2:4"
    none = {name: random_mask(shape, TILE, 0.0, 0)[0] for name, shape in linears.items()}
    _, third = write(tmp_path / "half", tmp_path / "none", none)
    assert third is None and np.isclose(first["mosaic"]["ratio"], 0.25, atol=0.1)
