"""What mask methods and solvers are given of a model: its linears one by one, and what is known of their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.store import WeightStore
from masklearn.recipe import LearnRecipe
from masklearn.traits import Need

if TYPE_CHECKING:
    import torch

__all__ = ["Feed", "Fisher", "Group"]

Found = TypeVar("Found")
Fisher = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Group:
    """Linears that share their inputs X.

    weights: W `[N, K]` by name, fp32; moment: XᵀX `[K, K]`, fp32; samples: tokens (runs of an ONNX file) that X was
    gathered on, the same number for every linear of a model.
    """

    weights: Mapping[str, torch.Tensor]
    moment: torch.Tensor
    samples: int


class Feed(ABC):
    """Gives the covered linears of a model to a method, in the model's order and as few in memory as it can.

    recipe: the settings; shapes: (N, K) by linear; note: says a line that a person should read; lacks: what methods may
    need and this model can't give, each with the reason in a sentence. Progress is the feed's to tell.
    """

    recipe: LearnRecipe
    shapes: Mapping[str, tuple[int, int]]
    note: Callable[[str], object]
    lacks: Mapping[Need, str]

    @abstractmethod
    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each linear's name and W `[N, K]`, fp32."""

    @abstractmethod
    def norms(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield each linear's name, W, and ‖x‖² `[K]` of every input feature of the dense model."""

    @abstractmethod
    def moments(
        self, see: Callable[[Group], Mapping[str, Found]], windows: int, *, fisher: bool = False
    ) -> Iterator[tuple[str, Found, Fisher | None]]:
        """Yield what `see` makes of each linear, from the second moments of the dense model's inputs.

        windows: calibration windows that suffice. fisher: each comes with E[g²] of its outputs `[N]`, where g is the
        gradient of the loss there; it is known only when `see` has seen all, so `see` returns what is kept till then.
        """

    @abstractmethod
    def replace(self, solve: Callable[[Group], Mapping[str, torch.Tensor]], store: WeightStore) -> None:
        """Enter new weights `[N, K]` for every linear in `store`, as `solve` makes them of a group's.

        A model that is run again for it sends on what the replaced linears before give.
        """
