"""Imports the zeros of a pruned Hugging Face directory, whatever method pruned it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masklearn.base.errors import MaskLearnError
from masklearn.importers.base import IMPORTERS, Importer, Published

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import Coverage

_DTYPES = ("F16", "BF16", "F32", "F64")


@IMPORTERS.register
class PrunedCheckpoint(Importer):
    """Pruned checkpoint: the zeros of every covered linear are its mask, -0.0 included.

    Reading a mask raises MaskLearnError if a weight is NaN or infinite.
    """

    name = "checkpoint"
    summary = "a pruned Hugging Face directory, whose zeros are the mask"
    in_weights = True
    general = True

    def detect(self, source: Path) -> str | None:
        """Claims every Hugging Face directory."""
        from masklearn.model.checkpoint import Checkpoint

        if not source.is_dir():
            return None
        Checkpoint.open(source, as_stored=True)
        return "a Hugging Face directory, whose zeros are the mask"

    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        """Open the checkpoint. Each mask reads its weight when it is asked for."""
        from masklearn.importers.inference import nonzero
        from masklearn.model.checkpoint import Checkpoint
        from masklearn.model.naming import from_stored

        pruned = Checkpoint.open(source)
        for name in coverage.linears:
            _check_weight(pruned, checkpoint, f"{name}.weight")

        def read(name: str) -> NDArray[np.bool_]:
            weight = f"{name}.weight"
            return from_stored(checkpoint, weight, nonzero(pruned, weight))

        return Published(tuple(coverage.linears), read, pruned.fingerprint, grids=pruned.grids)


def _check_weight(pruned: Checkpoint, checkpoint: Checkpoint, weight: str) -> None:
    if weight not in pruned:
        why, fix = f"There is no {weight}.", "Give the model that was pruned, or `exclude` the linear."
    elif pruned.shape(weight) != checkpoint.shape(weight):
        why = f"{weight} is {list(pruned.shape(weight))} there and {list(checkpoint.shape(weight))} in the model."
        fix = "Give the model that was pruned."
    elif pruned.entry(weight).dtype not in _DTYPES:
        why = (
            f"{weight} has dtype {pruned.entry(weight).dtype}; zeros of {', '.join(_DTYPES)} are understood."
        )
        fix = "Give a checkpoint whose weights have one of these types."
    else:
        return
    raise MaskLearnError(f"{pruned.path} is not a pruned {checkpoint.path.name}", why, fix)
