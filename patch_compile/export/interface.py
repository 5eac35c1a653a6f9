"""What goes into an exported graph and comes out of it, by name and dimension."""

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Interface", "token_dimensions"]

_LARGEST = 2**20  # upper bound of the dynamic dimensions, in tokens or rows


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a model that is traced, in order.

    arguments: an example of each input; dynamic_shapes: of each argument of the traced module its axes and
    their dimensions, as `torch.export` takes them (a cache is one argument of many inputs);
    dimensions: (input, axis, name of the dimension) for every dimension that the graph names.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[torch.Tensor, ...]
    dynamic_shapes: tuple[Any, ...]
    dimensions: tuple[tuple[int, int, str], ...]


def token_dimensions(*names: str) -> tuple[Any, ...]:
    """Dynamic dimensions that hold at least one row or token."""
    return tuple(torch.export.Dim(name, min=1, max=_LARGEST) for name in names)
