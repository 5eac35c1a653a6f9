"""Translates names of modules and tensors of a model to names in its checkpoint. Reads no weights."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from masklearn.model.architectures import architecture_of
from masklearn.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import nn

__all__ = ["checkpoint_name", "linear_name", "stored_name", "tied_name", "tied_names"]


def checkpoint_name(checkpoint: Checkpoint, name: str) -> str:
    """Returns the checkpoint's name of a model's tensor: the first known spelling that it has, or `name` if it has none.

    Checkpoints leave out the prefix of the base model (GPT-2), add one (BERT below a head), or have names that
    transformers has changed since (Mixtral, GPT-NeoX).
    """
    row = architecture_of(checkpoint)
    other = name
    for pattern, replacement in row.spellings:
        other = re.sub(pattern, replacement, other)
    for prefix in row.prefixes:
        for spelling in (name, other):
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
    row = architecture_of(checkpoint)
    pair = f"{row.embedding}.weight", f"{row.head}.weight"
    for one, other in (pair, pair[::-1]):
        if name in (one, checkpoint_name(checkpoint, one)):
            return checkpoint_name(checkpoint, other)
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
