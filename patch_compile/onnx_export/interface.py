"""Inputs and outputs of an exported graph, with their names and dimensions."""

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["LARGEST", "Interface", "token_dimensions"]

LARGEST = 2**20  # upper bound of the dynamic dimensions, in tokens or rows


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a traced model, in order.

    arguments: an example of each input; dynamic_shapes: argument of `torch.export` of this name, one entry per argument
    of the traced module (a cache is one argument but many inputs); dimensions: (input, axis, name) of every dimension
    that gets a name in the graph.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[torch.Tensor, ...]
    dynamic_shapes: tuple[Any, ...]
    dimensions: tuple[tuple[int, int, str], ...]


def token_dimensions(*names: str) -> tuple[Any, ...]:
    """Returns a dynamic dimension of size 1 or more for each name."""
    return tuple(torch.export.Dim(name, min=1, max=LARGEST) for name in names)
