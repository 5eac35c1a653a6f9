"""Converts between a linear's weight `[N, K]` and the orientation that the checkpoint stores.

Checkpoints store `[N, K]`, except for GPT-2's `Conv1D`, which is `[K, N]`. Outside this module weights, masks and tile maps
are always `[N, K]`. All functions take a tensor's checkpoint name and leave tensors alone that are no weight of a linear.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from masklearn.model.checkpoint import Checkpoint

__all__ = ["from_stored", "stored_shape", "to_stored"]


class _Array(Protocol):
    """Array of numpy or torch."""

    @property
    def ndim(self) -> int: ...

    @property
    def T(self) -> Any: ...


Array = TypeVar("Array", bound=_Array)


def from_stored(checkpoint: Checkpoint, name: str, stored: Array) -> Array:
    """Returns a view `[N, K]` of the weight of a linear that has the checkpoint's orientation."""
    return stored.T if _is_transposed(checkpoint, name, stored.ndim) else stored


def to_stored(checkpoint: Checkpoint, name: str, values: Array) -> Array:
    """Returns a view in the checkpoint's orientation of the weight `[N, K]` of a linear: the inverse of `from_stored`."""
    return from_stored(checkpoint, name, values)  # a transpose is its own inverse


def stored_shape(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns a tensor's shape in the checkpoint; shape: its shape outside, `[N, K]` for the weight of a linear."""
    return tuple(reversed(shape)) if _is_transposed(checkpoint, name, len(shape)) else tuple(shape)


def _is_transposed(checkpoint: Checkpoint, name: str, ndim: int) -> bool:
    return ndim == 2 and name.endswith(".weight") and name.startswith(checkpoint.conv1d)
