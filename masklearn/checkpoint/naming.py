"""Translates names of modules and tensors of a model to names in its checkpoint. Reads no weights."""

import re

from masklearn.checkpoint.architectures import ARCHITECTURES
from masklearn.checkpoint.checkpoint import Checkpoint

__all__ = ["checkpoint_name", "linear_name"]


def checkpoint_name(checkpoint: Checkpoint, name: str) -> str:
    """Returns the checkpoint's name of a model's tensor: the first known spelling that it has, or `name` if it has none.

    Checkpoints leave out the prefix of the base model (GPT-2), add one (BERT below a head), or have names that
    transformers has changed since (Mixtral, GPT-NeoX).
    """
    row = ARCHITECTURES[checkpoint.config["model_type"]]
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
