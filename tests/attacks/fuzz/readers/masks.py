"""Readers of safetensors, mask files and published masks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from masklearn.base.shard import Shard
from masklearn.importers.importing import import_masks
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from patch_compile.inspection.tensors import inspect_tensors
from tests.attacks.fuzz.dense import COVERED, write_dense
from tests.attacks.fuzz.mutations import change_npz, change_safetensors
from tests.attacks.fuzz.reader import Reader, placed


def _safetensors(data: bytes, folder: Path) -> None:
    shard = Shard.open(placed(folder, "t.safetensors", data))
    for name, entry in shard.tensors.items():
        assert shard.read(name).shape == entry.shape


def _masks(data: bytes, folder: Path) -> None:
    path = placed(folder, "masks.safetensors", data)
    inspect_tensors(path)
    masks = MaskSet.load(path)
    again = folder / "again.safetensors"
    masks.save(again)
    same = MaskSet.load(again)
    assert same.tile_sizes() == masks.tile_sizes() and same.shapes() == masks.shapes()
    for name, mask in masks.items():
        assert (same[name].pattern == mask.pattern).all() and (same[name].mask16 == mask.mask16).all()
        assert (same[name].kinds == mask.kinds).all()
    assert same.grids.keys() == masks.grids.keys()
    for name, grid in masks.grids.items():
        assert same.grids[name].type == grid.type
        assert same.grids[name].scales.tobytes() == grid.scales.tobytes()


@cache
def _dense(folder: Path) -> tuple[Checkpoint, Coverage]:
    return Checkpoint.open(write_dense(folder / "dense")), Coverage(COVERED, {})


def _archive(data: bytes, folder: Path) -> None:
    import_masks(placed(folder, "mask.npz", data), *_dense(folder))


def _compressed(data: bytes, folder: Path) -> None:
    source = folder / "compressed"
    if not source.is_dir():
        write_dense(source)
    placed(source, "model.safetensors", data)
    import_masks(source, *_dense(folder))


READERS = (
    Reader("safetensors", _safetensors, change_safetensors),
    Reader("masks", _masks, change_safetensors),
    Reader("published-npz", _archive, change_npz),
    Reader("published-folder", _compressed, change_safetensors),
)
