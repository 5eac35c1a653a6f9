"""Feeds give a model's linears, and statistics of their inputs, to mask methods and solvers."""

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

    weights: W `[N, K]` by name, fp32; moment: XᵀX `[K, K]`, fp32; samples: number of tokens (or runs of an ONNX file) in
    X, the same for every linear of a model.
    """

    weights: Mapping[str, torch.Tensor]
    moment: torch.Tensor
    samples: int


class Feed(ABC):
    """Gives the covered linears of a model to a method, in the model's order and with few of them in memory.

    A feed also reports progress. recipe: the settings; shapes: (N, K) by linear; note: called with lines for the user;
    lacks: needs of methods that this model can't meet, each with the reason as a sentence.
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
        """Yield each linear's name, W `[N, K]`, and ‖x‖² `[K]` of its input features in the dense model, fp32."""

    @abstractmethod
    def moments(
        self, see: Callable[[Group], Mapping[str, Found]], windows: int, *, fisher: bool = False
    ) -> Iterator[tuple[str, Found, Fisher | None]]:
        """Yield each linear's name, the value that `see` returns for it, and its Fisher information.

        see: called with groups of linears and the second moments of their inputs in the dense model; returns a value for
        each linear, which is kept until the Fisher information is known, after all calls; windows: number of calibration
        windows to use; fisher: True to compute E[g²] `[N]` of each linear's outputs, where g is the gradient of the loss
        with respect to an output, False for None.
        """

    @abstractmethod
    def replace(self, solve: Callable[[Group], Mapping[str, torch.Tensor]], store: WeightStore) -> None:
        """Put the new weights `[N, K]` of every linear, which `solve` returns for its group, in `store`.

        A feed that runs the model again for it uses the new weights for the inputs of later linears.
        """
