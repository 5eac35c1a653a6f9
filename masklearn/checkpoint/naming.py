"""The names that a checkpoint has for the tensors of its model; no weight is read."""

import re

from masklearn.checkpoint.architectures import ARCHITECTURES
from masklearn.checkpoint.checkpoint import Checkpoint

__all__ = ["checkpoint_name", "linear_name"]


def checkpoint_name(checkpoint: Checkpoint, name: str) -> str:
    """The checkpoint's name of a model's tensor.

    Checkpoints leave out the base's prefix (GPT-2), add one (BERT below a head) or keep the names of the
    authors (Mixtral, GPT-NeoX). The first spelling that the checkpoint has counts; `name` itself if it has none.
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
    """The checkpoint's name of a linear: that of its tensor without `.weight`."""
    return checkpoint_name(checkpoint, f"{module}.weight").removesuffix(".weight")
