"""Masks and the weights that belong to them, learned by a source or given by the user."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from masklearn.choice.menu import quantised_types, why_apart
from masklearn.masks.maskset import MaskSet
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.layout import MASKS
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Update
from patch_compile.sources.formats import ModelFormat


class Pruning(ABC):
    """Masks and the weights that belong to them, before they are written."""

    masks: MaskSet

    @property
    @abstractmethod
    def has_new_weights(self) -> bool:
        """True if the surviving weights differ from the source's weights."""

    @abstractmethod
    def write(self, path: Path, update: Update) -> None:
        """Write the pruned model in the format of the source."""


@dataclass(frozen=True)
class GivenMasks:
    """Masks of a file. weights: path of the model that the masks prune, in the format of the source."""

    masks: MaskSet
    weights: Path


def given_masks(
    file: Path,
    linears: Mapping[str, tuple[int, int]],
    model: Path,
    pruned: Path | None,
    format: ModelFormat,
) -> GivenMasks:
    """Read masks for the covered linears of a model.

    pruned: the pruned model that the user names, None if none is named; format: of both models. Raises PatchCompileError if
    the masks cover other linears, or if they were learned together with new weights that are no longer next to them.
    """
    masks = MaskSet.load(file)
    masks.check_covers(linears)
    digest = masks.record.weights
    if digest is None and pruned is None:
        return GivenMasks(masks, model)
    weights = pruned or file.parent / format.pruned_file
    if not weights.exists():
        raise PatchCompileError(
            f"{file} was learned together with new weights",
            f"They belong into {weights}, where nothing is.",
            f"Keep {MASKS} next to the folder it was written with, or learn again with --repair none "
            "--method wanda and without --permute, which keeps the weights.",
        )
    if digest is None:
        masks.record.weights = format.fingerprint_of(weights)
    elif format.fingerprint_of(weights) != digest:
        raise PatchCompileError(
            f"{weights} does not hold the weights that {file.name} was learned with",
            "It has another sha256.",
            "Use the two as they were written.",
        )
    return GivenMasks(masks, weights)


def prunes_nothing(masks: MaskSet, weight: Callable[[str], NDArray[np.float32]]) -> bool:
    """Returns True if masks zero weights, and all these are zeros already: the model is pruned. weight: reads a weight."""
    pruning = [(name, mask) for name, mask in masks.items() if mask.zeroed]
    return bool(pruning) and not any(weight(name)[~mask.keep()].any() for name, mask in pruning)


def grids_of_pruned(folder: Path, masks: Path | None) -> Mapping[str, Grid]:
    """Returns the grids of the quantised linears of a pruned model.

    folder: of the model; masks: the file to read if there is none next to the folder, None if there is no such file.
    """
    own = folder.parent / MASKS
    file = own if own.is_file() else masks
    return MaskSet.load(file).grids if file is not None else {}


def types_to_round(
    masks: MaskSet,
    weights: str | None,
    file: Path | None,
    given: Mapping[str, WeightType] = MappingProxyType({}),
) -> dict[str, WeightType]:
    """Returns the types of the linears to round for given masks. It is empty if the masks' own weights are rounded already.

    weights: the requested types, None for the masks' own types; file: of the masks; given: types of the linears of a
    quantised checkpoint, whose weights belong to the masks. Raises PatchCompileError if the masks' own weights have other
    types.
    """
    has = {name: grid.type for name, grid in masks.grids.items()}
    types = has if weights is None and has else quantised_types(weights, masks.shapes(), given)
    for name in masks if has else ():
        if types.get(name) != has.get(name):
            raise PatchCompileError(
                f"{file} has {has.get(name, '16-bit')} weights for {name}, not {types.get(name, '16-bit')} weights",
                "Weights that were rounded once are not rounded again: they would lose twice.",
                "Leave --weights out, or learn masks with it.",
            )
    _check_kinds(masks, types, file)
    return {} if types == has else types


def _check_kinds(masks: MaskSet, types: Mapping[str, WeightType], file: Path | None) -> None:
    """Raises PatchCompileError if given masks have tiles that no kernel multiplies with weights of the linear's type.

    types: of the linears whose weights are quantised.
    """
    for name, mask in masks.items():
        weights = types.get(name, FLOAT16)
        for kind in mask.by_kind():
            if not kind.goes_with(weights):
                why, other = why_apart(kind, weights)
                raise PatchCompileError(
                    f"{file} has tiles of kind {kind} in {name}, which can't have {types.get(name, '16-bit')} weights",
                    why,
                    f"Give --weights {name.rpartition('.')[2]}={other} behind a comma, or learn masks with --kinds 2:4.",
                )
