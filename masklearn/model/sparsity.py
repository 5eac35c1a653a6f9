"""Describes the sparsity of a pruned checkpoint in its config.json, as compressed-tensors does: block `sparsity_config`.

Its fields are those of compressed-tensors' `SparsityCompressionConfig`. The format is `dense`: zeros are stored, so that
every program loads the weights as they are.
"""

import math
from typing import Any

from masklearn.masks.kinds.table import DENSE
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint

__all__ = ["SPARSITY", "sparsity_config"]

SPARSITY = "sparsity_config"
_NO_STRUCTURE = "unstructured"  # compressed-tensors' word for every mixture


def sparsity_config(checkpoint: Checkpoint, masks: MaskSet) -> dict[str, Any] | None:
    """Returns the block of a checkpoint that is pruned by these masks; None if they prune nothing.

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
