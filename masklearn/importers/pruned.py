"""A pruned Hugging Face directory, by whatever method: its zeros are the mask."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import Coverage
from masklearn.checkpoint.orientation import from_stored
from masklearn.errors import PatchCompileError
from masklearn.importers.nonzero import nonzero
from masklearn.importers.published import Format, Published, register

__all__ = ["open_pruned"]

_DTYPES = ("F16", "BF16", "F32", "F64")


@register(Format.CHECKPOINT)
def open_pruned(source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
    """Every covered linear is looked at; -0.0 is a zero too. PatchCompileError when one is NaN or infinite."""
    pruned = Checkpoint.open(source)
    for name in coverage.linears:
        _check_weight(pruned, checkpoint, f"{name}.weight")

    def read(name: str) -> NDArray[np.bool_]:
        weight = f"{name}.weight"
        return from_stored(checkpoint, weight, nonzero(pruned, weight))

    return Published(tuple(coverage.linears), read, pruned.fingerprint, in_weights=True)


def _check_weight(pruned: Checkpoint, checkpoint: Checkpoint, weight: str) -> None:
    if weight not in pruned:
        why, fix = f"There is no {weight}.", "Give the model that was pruned, or --exclude the linear."
    elif pruned.shape(weight) != checkpoint.shape(weight):
        why = f"{weight} is {list(pruned.shape(weight))} there and {list(checkpoint.shape(weight))} in the model."
        fix = "Give the model that was pruned."
    elif pruned.entry(weight).dtype not in _DTYPES:
        why = (
            f"{weight} has dtype {pruned.entry(weight).dtype}; zeros of {', '.join(_DTYPES)} are understood."
        )
        fix = "Give a checkpoint that is not quantised."
    else:
        return
    raise PatchCompileError(f"{pruned.path} is not a pruned {checkpoint.path.name}", why, fix)
