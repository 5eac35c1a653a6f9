"""Translates names and layouts of a model's tensors to names and layouts in its checkpoint. Does not read weights.

Checkpoints store the weight of a linear as `[N, K]`, except for GPT-2's `Conv1D`, which is `[K, N]`. Elsewhere weights,
masks and tile maps are always `[N, K]`.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn


def checkpoint_name(checkpoint: Checkpoint, name: str) -> str:
    """Returns the checkpoint's name of a model's tensor: the first known spelling that the checkpoint has, or else `name`.

    Checkpoints leave out the prefix of the base model (GPT-2), add a prefix (BERT below a head), or have names that
    transformers has changed since (Mixtral, GPT-NeoX).
    """
    row = checkpoint.architecture
    renamed = name
    for pattern, replacement in row.spellings:
        renamed = re.sub(pattern, replacement, renamed)
    for prefix in row.prefixes:
        for spelling in (name, renamed):
            if spelling.startswith(row.prefixes[0]):
                spelling = prefix + spelling.removeprefix(row.prefixes[0])
            if spelling in checkpoint:
                return spelling
    return name


def linear_name(checkpoint: Checkpoint, module: str) -> str:
    """Returns the checkpoint's name of a linear: the name of its weight without `.weight`."""
    return checkpoint_name(checkpoint, f"{module}.weight").removesuffix(".weight")


def tied_name(checkpoint: Checkpoint, name: str) -> str | None:
    """Returns the checkpoint's name of the head for a name of the embedding, and the reverse; None for other names."""
    row = checkpoint.architecture
    pair = f"{row.embedding}.weight", f"{row.head}.weight"
    for tensor, partner in (pair, pair[::-1]):
        if name in (tensor, checkpoint_name(checkpoint, tensor)):
            return checkpoint_name(checkpoint, partner)
    return None


def tied_names(model: "nn.Module") -> dict[str, list[str]]:
    """Returns all names of each parameter, by each of them; tied parameters have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: group for group in names.values() for name in group}


def stored_name(checkpoint: Checkpoint, names: Sequence[str]) -> str:
    """Returns the checkpoint's name of a parameter; names: the names that it has in the model.

    It is the name of the first of them that the checkpoint holds, or of the first if it holds none.
    """
    stored = [checkpoint_name(checkpoint, name) for name in names]
    return next((name for name in stored if name in checkpoint), stored[0])


Array = TypeVar("Array", NDArray[Any], "Tensor")


def from_stored(checkpoint: Checkpoint, name: str, stored: Array) -> Array:
    """Returns a view `[N, K]` of the weight of a linear that has the checkpoint's orientation."""
    return stored.T if _is_transposed(checkpoint, name, stored.ndim) else stored


def to_stored(checkpoint: Checkpoint, name: str, values: Array) -> Array:
    """Returns a view in the checkpoint's orientation of the weight `[N, K]` of a linear: the inverse of `from_stored`."""
    return from_stored(checkpoint, name, values)  # a transpose is its own inverse


def stored_shape(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns a tensor's shape in the checkpoint; shape: its shape outside, `[N, K]` for the weight of a linear."""
    return tuple(reversed(shape)) if _is_transposed(checkpoint, name, len(shape)) else tuple(shape)


def check_tensor(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> None:
    """Raise MaskLearnError if the checkpoint lacks a tensor of the model, or has it in another shape than the model."""
    if name not in checkpoint:
        raise MaskLearnError(
            f"{checkpoint.path} has no {name}",
            "config.json describes a model that has it.",
            "Fetch the checkpoint again.",
        )
    if checkpoint.shape(name) != (described := stored_shape(checkpoint, name, shape)):
        raise MaskLearnError(
            f"{name} is {list(checkpoint.shape(name))} in {checkpoint.path}",
            f"config.json makes it {list(described)}.",
            "Use the config.json that belongs to the weights.",
        )


def _is_transposed(checkpoint: Checkpoint, name: str, ndim: int) -> bool:
    return ndim == 2 and name.endswith(".weight") and name.startswith(checkpoint.conv1d)
