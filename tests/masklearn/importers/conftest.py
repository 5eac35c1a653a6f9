from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.importers.importing import import_masks
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage, covered_linears_of
from tests.conftest import ModelMaker


@dataclass
class Model:
    """A tiny dense model, and the notes of imports into it."""

    checkpoint: Checkpoint
    coverage: Coverage
    notes: list[str] = field(default_factory=list)

    def import_from(self, source: Path, **options: Any) -> MaskSet:
        masks = import_masks(source, self.checkpoint, self.coverage, note=self.notes.append, **options)
        masks.check_covers(self.coverage.linears)
        return masks

    def nonzero(self, masks: Mapping[str, LinearMask]) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
        """The masks of a method that publishes `weight != 0`."""
        return {
            name: mask.keep() & (self.checkpoint.read(f"{name}.weight") != 0) for name, mask in masks.items()
        }


@pytest.fixture
def make_dense(make_model: ModelMaker) -> Callable[..., Model]:
    def make(*arguments: Any, exclude: tuple[str, ...] = (), **settings: Any) -> Model:
        checkpoint = Checkpoint.open(make_model(*arguments, **settings))
        return Model(checkpoint, covered_linears_of(checkpoint, (), exclude))

    return make


@pytest.fixture
def dense(make_dense: Callable[..., Model]) -> Model:
    return make_dense()


def assert_same(masks: Mapping[str, LinearMask], expected: Mapping[str, LinearMask]) -> None:
    assert list(masks) == list(expected)
    for name, mask in expected.items():
        assert masks[name].tile == mask.tile
        np.testing.assert_array_equal(masks[name].tiles, mask.tiles, err_msg=name)
        np.testing.assert_array_equal(masks[name].keep(), mask.keep(), err_msg=name)
