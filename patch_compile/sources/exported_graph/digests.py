"""Finds the weights of a checkpoint in an exported graph by their numbers, with one weight in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.model.prune import masked_weight
from patch_compile.onnx_io.write import read_weight

if TYPE_CHECKING:
    import onnx_ir as ir

    from masklearn.masks.linear_mask import LinearMask
    from masklearn.model.checkpoint import Checkpoint

__all__ = ["KnownWeight", "Origin", "WeightIndex"]


class Origin(StrEnum):
    """The model whose numbers a weight of the graph has."""

    MODEL = "model"  # the model as it was given
    PRUNED = "pruned"  # the same under its masks, or the pruned model that belongs to the masks


@dataclass(frozen=True)
class KnownWeight:
    """A weight `[rows, K]` of a checkpoint in the type of the graph. digest: sha256 of all of its bytes, row by row."""

    name: str
    rows: int
    digest: bytes
    origin: Origin


class WeightIndex:
    """Weights of a checkpoint by K and their first row, in one type."""

    def __init__(self, known: Mapping[tuple[int, bytes], list[KnownWeight]]) -> None:
        self._known = known
        self._widths = {k for k, _ in known}

    @classmethod
    def of(
        cls,
        names: Mapping[str, tuple[int, int]],
        model: Checkpoint,
        pruned: Checkpoint,
        masks: Mapping[str, LinearMask],
        dtype: ir.DataType,
    ) -> WeightIndex:
        """Read each linear of `names` once. pruned: the checkpoint whose weights the masks prune; may be the model itself.

        Raises PatchCompileError for a weight that does not fit `dtype`.
        """
        known: dict[tuple[int, bytes], list[KnownWeight]] = {}
        for name in names:
            for origin, weight in _forms(name, model, pruned, masks, dtype):
                found = KnownWeight(name, len(weight), _digest(weight), origin)
                same = known.setdefault((weight.shape[1], _digest(weight[:1])), [])
                # Without zeros to set, the model and its pruned form have one digest.
                if all((one.name, one.digest) != (name, found.digest) for one in same):
                    same.append(found)
        return cls(known)

    def may_hold(self, k: int) -> bool:
        """True if some weight has K columns."""
        return k in self._widths

    def rows_of(self, weight: NDArray[Any]) -> list[tuple[KnownWeight, ...]]:
        """Returns the weights that are stacked in `weight` `[N, K]`, each with all others that have the same numbers.

        The result is empty if any row belongs to no weight.
        """
        found: list[tuple[KnownWeight, ...]] = []
        start = 0
        while start < len(weight):
            first = self._known.get((weight.shape[1], _digest(weight[start : start + 1])), [])
            for rows in sorted({one.rows for one in first if start + one.rows <= len(weight)}, reverse=True):
                digest = _digest(weight[start : start + rows])
                if same := tuple(one for one in first if one.rows == rows and one.digest == digest):
                    found.append(same)
                    start += rows
                    break
            else:
                return []
        return found


def _forms(
    name: str,
    model: Checkpoint,
    pruned: Checkpoint,
    masks: Mapping[str, LinearMask],
    dtype: ir.DataType,
) -> Iterator[tuple[Origin, NDArray[Any]]]:
    """Yield the weight `[N, K]` of a linear as an exporter may have found it."""
    tensor = f"{name}.weight"
    weight = read_weight(model, tensor, dtype)
    yield Origin.MODEL, weight
    if pruned is not model:
        weight = read_weight(pruned, tensor, dtype)
    if name in masks:
        yield Origin.PRUNED, masked_weight(weight, masks[name].keep())


def _digest(weight: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(weight).view(np.uint8).data).digest()
