"""Inspects safetensors files: masks, and shards of a checkpoint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from masklearn.base.shard import Shard
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.stored import FORMAT
from masklearn.masks.tiles import spell_tile
from patch_compile.errors import PatchCompileError
from patch_compile.inspection import Inspection

_SIXTEEN = "16-bit"  # of weights without a grid, which masks do not tell apart


def inspect_tensors(path: Path) -> Inspection:
    """Inspect a MaskSet by reading every pattern, or any other safetensors file by its header.

    Raises PatchCompileError if the file is damaged.
    """
    shard = Shard.open(path)
    return _masks(path) if shard.metadata.get("format") == FORMAT else _shard(path, shard)


def _masks(path: Path) -> Inspection:
    masks = MaskSet.load(path)
    types = {name: grid.type.name for name, grid in masks.grids.items()}
    rows, faults = [], []
    for name, shape in masks.shapes().items():
        try:
            rows.append(_mask_row(name, masks[name], types.get(name, _SIXTEEN), several=not masks.plain))
        except PatchCompileError as error:
            faults.append(f"{name} {list(shape)}: {error.why or error.what}")
    facts = {
        "method": masks.method,
        "ratio": round(masks.ratio, 4),
        "asked for": masks.ratio_asked,
        "seed": masks.seed,
        "model": masks.base_model,
        "sha256 of the model": masks.base_sha256,
        "linears": len(masks),
        "weights": masks.weights,
        "kinds of tiles": {kind.name: round(n / masks.weights, 4) for kind, n in masks.by_kind().items()},
        "weight types": dict(Counter(types.get(name, _SIXTEEN) for name in masks)),
        "bytes per packed weight": round(masks.packed_bytes_per_weight, 4),
        "with new weights": masks.record.weights is not None,
        "feed-forward parts permuted": len(masks.orders),
        **({"inputs smoothed": masks.record.smoothed.scaled} if masks.record.smoothed else {}),
        "bytes": path.stat().st_size,
    }
    checked = "every tile map fits its shape, and every group of a pruned tile has a pattern of its kind"
    return Inspection(path, "masks", facts, rows, checked, faults)


def _mask_row(name: str, mask: LinearMask, weights: str, *, several: bool) -> dict[str, object]:
    kinds = {"kinds": " ".join(kind.name for kind in mask.by_kind())} if several else {}
    return {
        "linear": name,
        "shape": list(mask.shape),
        "tile": spell_tile(mask.tile),
        "2:4 tiles": int(mask.tiles.sum()),
        "tiles": mask.tiles.size,
        **kinds,
        "weights": weights,
        "ratio": round(mask.zeroed / mask.weights, 4),
    }


def _shard(path: Path, shard: Shard) -> Inspection:
    rows = [
        {"tensor": name, "dtype": entry.dtype, "shape": list(entry.shape), "bytes": entry.end - entry.start}
        for name, entry in sorted(shard.tensors.items())
    ]
    facts = {
        "tensors": len(rows),
        "types": dict(Counter(str(row["dtype"]) for row in rows)),
        "bytes": path.stat().st_size,
        "metadata": dict(shard.metadata),
    }
    return Inspection(path, "safetensors", facts, rows, "the header describes every byte of the file")
