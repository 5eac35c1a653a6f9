"""The way round in which a checkpoint keeps a linear's weight: `[N, K]`, or `[K, N]` where it is GPT-2's `Conv1D`.

Everywhere else a weight, a mask and a tile map are `[N, K]`. A tensor is known by its checkpoint name; those that are no
weight of a linear stay as they are.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint

__all__ = ["from_stored", "stored_shape", "to_stored"]


class _Array(Protocol):
    """An array of numpy or torch."""

    @property
    def ndim(self) -> int: ...

    @property
    def T(self) -> Any: ...


Array = TypeVar("Array", bound=_Array)


def from_stored(checkpoint: Checkpoint, name: str, stored: Array) -> Array:
    """A tensor, or anything of its shape, as the checkpoint keeps it: a view, `[N, K]` for the weight of a linear."""
    return stored.T if _is_transposed(checkpoint, name, stored.ndim) else stored


def to_stored(checkpoint: Checkpoint, name: str, values: Array) -> Array:
    """The inverse of `from_stored`: a view in the checkpoint's layout."""
    return from_stored(checkpoint, name, values)  # a transpose is its own inverse


def stored_shape(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that a tensor of this shape, `[N, K]` for the weight of a linear, has in the checkpoint."""
    return tuple(reversed(shape)) if _is_transposed(checkpoint, name, len(shape)) else tuple(shape)


def _is_transposed(checkpoint: Checkpoint, name: str, ndim: int) -> bool:
    row = architecture_of(checkpoint)
    inside = row.blocks.removeprefix(row.prefixes[0])
    in_blocks = name.startswith(tuple(f"{prefix}{inside}." for prefix in row.prefixes))
    return row.conv1d and ndim == 2 and in_blocks and name.endswith(".weight")
