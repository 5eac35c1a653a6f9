"""A checkpoint whose linears lose every other weight, for measures that compare models."""

from pathlib import Path

import numpy as np

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.linears import read_linear, write_linear
from masklearn.model.store import WeightStore

WINDOWS = np.random.default_rng(0).integers(2, 22, (3, 20))


def silent(*_: object) -> None: ...


def halved(path: Path, scratch: Path) -> Checkpoint:
    """The checkpoint with every other weight along K set to zero."""
    checkpoint, store = Checkpoint.open(path), WeightStore(scratch)
    for name in covered_linears_of(checkpoint).linears:
        weight = read_linear(checkpoint, name)
        weight[:, ::2] = 0.0
        write_linear(store, checkpoint, name, weight)
    return checkpoint.with_weights(store)
