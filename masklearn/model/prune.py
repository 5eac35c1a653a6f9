"""Writes the pruned checkpoint: the files of the source with new values and zeroed weights, in the same dense layout."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.shard import write_shard
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.companion_files import copy_beside
from masklearn.model.folder import CONFIG, INDEX, write_index
from masklearn.model.orientation import to_stored

__all__ = ["masked_weight", "write_pruned_checkpoint"]

_SPARSITY = "sparsity_config"
_NO_STRUCTURE = "unstructured"  # compressed-tensors' word for every mixture
# GPTQ and AWQ write these beside config.json.
_OF_QUANTISATION = ("quantize_config.json", "quant_config.json")


def masked_weight(weight: NDArray[Any], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """Returns W∘M in the layout and type of W. Pruned weights are +0, also if they were negative."""
    return np.where(keep, weight, np.zeros((), weight.dtype))


def write_pruned_checkpoint(
    checkpoint: Checkpoint,
    masks: MaskSet,
    out: Path,
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Write the Hugging Face folder `out` with the same shards and tensor names. One tensor is in memory at a time.

    config.json gets a description of the zeros (`sparsity_config`). Tensors with new values (`Checkpoint.with_weights`) are
    written with these. A quantised checkpoint is written as the dense one that it stands for: its values, and nothing that
    speaks of quantisation. Sub-folders are copied if they hold no weights (chat templates) or are modules of a
    sentence-transformers model; exports to other formats are not copied. No file has more permissions than its source.

    progress: called with a tensor's name, the number of tensors so far and the number of all tensors.
    """
    copy_beside(checkpoint.path, out)
    _write_config(checkpoint, masks, out)
    if checkpoint.quantised:
        _describe_dense(checkpoint, out)
    total, done = len(checkpoint.names()), 0

    def tensor(name: str) -> NDArray[Any]:
        nonlocal done
        done += 1
        if progress:
            progress(name, done, total)
        weight = checkpoint.read(name)
        linear = name.removesuffix(".weight")
        if linear not in masks:
            return weight
        return masked_weight(weight, to_stored(checkpoint, name, masks[linear].keep()))

    for file_name, shard in checkpoint.shards().items():
        specs = {name: (entry.dtype, entry.shape) for name, entry in shard.tensors.items()}
        write_shard(out / file_name, specs, tensor, shard.metadata, like=shard.path)


def _write_config(checkpoint: Checkpoint, masks: MaskSet, out: Path) -> None:
    """Write the dense model's config with the block of its sparsity over the copy, unless nothing changes.

    A block of the model itself, which was pruned before, would be wrong.
    """
    config = {key: value for key, value in checkpoint.config.items() if key != _SPARSITY}
    if found := _sparsity_config(checkpoint, masks):
        config[_SPARSITY] = found
    if config != checkpoint.config or checkpoint.quantised:
        (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _describe_dense(checkpoint: Checkpoint, out: Path) -> None:
    """Take what speaks of quantisation out of the copies, and write the index of the dense values."""
    for name in _OF_QUANTISATION:
        (out / name).unlink(missing_ok=True)
    if (out / INDEX).is_file():
        weight_map = {name: file for file, shard in checkpoint.shards().items() for name in shard.tensors}
        write_index(out, weight_map, checkpoint.bytes())


def _sparsity_config(checkpoint: Checkpoint, masks: MaskSet) -> dict[str, Any] | None:
    """Returns the block of a checkpoint that is pruned by these masks; None if they prune nothing.

    Its fields are those of compressed-tensors' `SparsityCompressionConfig`. The format is `dense`: zeros are stored, so that
    every program loads the weights as they are.

    targets: the linears that have zeroed tiles; global_sparsity: zeroed weights / all weights of the model;
    sparsity_structure: the kind of the tiles if all tiles of the targets are of one kind. compressed-tensors has no word for
    a mosaic, so `mosaic`, which it ignores, holds the ratio over the covered linears, their tile sizes (rows x columns, with
    the number of linears) and the share of their weights in tiles of each kind.
    """
    if not masks.zeroed:
        return None
    shares = masks.by_kind()
    total = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    sizes = [f"{rows}x{columns}" for rows, columns in masks.tile_sizes().values()]
    return {
        "format": "dense",
        "targets": [name for name, kinds in masks.kind_maps().items() if (kinds != DENSE.code).any()],
        "ignore": [],
        "global_sparsity": masks.zeroed / total,
        "sparsity_structure": next(iter(shares)).name if len(shares) == 1 else _NO_STRUCTURE,
        "mosaic": {
            "ratio": masks.ratio,
            "tiles": {size: sizes.count(size) for size in dict.fromkeys(sizes)},
            "kinds": {kind.name: weights / masks.weights for kind, weights in shares.items()},
        },
    }
