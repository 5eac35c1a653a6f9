"""Feeds give a model's linears, and statistics of their inputs, to mask methods and solvers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from masklearn.choice.menu import allowed_kinds, allowed_types, quantised_types
from masklearn.masks.kinds.base import TileKind
from masklearn.model.quantised.base import Grids
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid
from masklearn.quant.table import WeightType
from masklearn.recipe import LearnRecipe
from masklearn.traits import Requires

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, NDArray[Any]]
"""Named arrays of numpy: the form in which a feed keeps a method's results for a linear."""
CodeArrays = Mapping[str, NDArray[Any]]
"""Codes of all groups of a linear, `[N, K/group]`, by name of the kind's family."""
SCALES = "scales"
_DAMPING = 0.01
Fisher = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Group:
    """Linears that share their inputs X.

    weights: W `[N, K]` by name, fp32; moment: XᵀX `[K, K]`, fp32; rows: number of rows of X; samples: number of tokens (or
    runs of an ONNX file) that X was computed from, the same for every linear of a model; check: XᵀX of other text of as many
    tokens, None if there is none; weighted: returns XᵀDX `[K, K]`, fp32, which weights each token by the effect of
    its errors on the block's output (see `stream.moments.weighted_moments`). It may be called once, and the caller may
    overwrite the matrix; None if rounding is to take XᵀX; input_errors: squared errors of rounding X to int8, summed over
    its tokens, fp32 `[K]`, None if nobody asks for them or X is not known.
    """

    weights: Mapping[str, torch.Tensor]
    moment: torch.Tensor
    rows: int
    samples: int
    check: torch.Tensor | None = None
    weighted: Callable[[], torch.Tensor] | None = None
    input_errors: torch.Tensor | None = None

    @property
    def damping(self) -> float:
        """What to add to the diagonal of the moment, as a share of its mean: K / rows, between 0.01 and 1.

        A solve on few rows fits these, and loses more on other text. Measured on block 2 of Qwen2.5-Coder-1.5B (2:4
        everywhere by ALPS, windows of 512 tokens of one text; squared output error on WikiText-2 as a share of the
        output's energy):

            q_proj, K = 1,536:  rows per column   2.7    5.3    10.7   21.3   32
            damping .01                           .0249  .0206  .0192  .0187  .0182
            .1                                    .0217  .0190  .0185  .0182  .0179
            .3                                    .0207  .0191  .0188  .0187  .0186
            1                                     .0225  .0215  .0218  .0215  .0215
        """
        return min(1.0, max(_DAMPING, self.moment.shape[0] / max(1, self.rows)))


@dataclass(frozen=True, eq=False)
class Replaced:
    """New weight of a linear.

    values: `[N, K]`; arrays: further results of the solve; grid: on which the values lie, None in 16 bits.
    """

    values: torch.Tensor
    arrays: Arrays
    grid: Grid | None = None

    @property
    def stored(self) -> Arrays:
        """The arrays, and the scales."""
        return self.arrays if self.grid is None else {**self.arrays, SCALES: self.grid.scales}


class Feed(ABC):
    """Gives the covered linears of a model to a method, in the model's order and with few of them in memory.

    A feed also reports progress. recipe: the settings; shapes: (N, K) by linear; note: called with lines for the user;
    why_not: needs of methods that this model can't meet, each with the reason as a sentence; given: grids that the weights
    of a quantised model lie on.
    """

    recipe: LearnRecipe
    shapes: Mapping[str, tuple[int, int]]
    note: Callable[[str], object]
    why_not: Mapping[Requires, str]
    given: Grids = Grids({})

    @cached_property
    def kinds(self) -> Mapping[str, tuple[TileKind, ...]]:
        """Kinds that the tiles of each linear may have besides dense. Raises MaskLearnError as `allowed_kinds` does."""
        return allowed_kinds(self.recipe.kinds, self.shapes, self.recipe.tile, self.allowed_types)

    @cached_property
    def types(self) -> Mapping[str, WeightType]:
        """Types of the quantised linears. Raises MaskLearnError as `quantised_types` does."""
        return quantised_types(self.recipe.weights, self.shapes, self.given.types)

    @cached_property
    def allowed_types(self) -> Mapping[str, tuple[WeightType, ...]]:
        """Types that each linear may have. Raises MaskLearnError as `allowed_types` does."""
        by_time = self.recipe.bytes_per_weight is None
        return allowed_types(self.recipe.weights, self.shapes, self.given.types, by_time=by_time)

    @property
    def chooses_types(self) -> bool:
        return any(len(kinds) > 1 for kinds in self.allowed_types.values())

    def with_weights(self, weights: str) -> Self:
        """Returns a feed of the same linears with another value of `weights` in its recipe."""
        feed = copy(self)
        for cached in ("types", "allowed_types", "kinds"):
            feed.__dict__.pop(cached, None)
        feed.recipe = self.recipe.model_copy(update={"weights": weights})
        return feed

    def kept_grid(self, name: str) -> Grid | None:
        """Returns the grid of a linear of a quantised checkpoint if it keeps that grid; None if its scales are searched."""
        keeps = name in self.types and self.given.types.get(name) is self.types[name]
        return self.given[name] if keeps else None

    @abstractmethod
    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each linear's name and W `[N, K]`, fp32."""

    @abstractmethod
    def norms(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield each linear's name, W `[N, K]`, and ‖x‖² `[K]` of its input features in the dense model, fp32."""

    @abstractmethod
    def moments(
        self, see: Callable[[Group], Mapping[str, Arrays]], windows: int, key: str, *, fisher: int = 0
    ) -> Iterator[tuple[str, Arrays, Fisher | None]]:
        """Yield each linear's name, the arrays that `see` returns for it, and its Fisher information.

        see: called with groups of linears and the second moments of their inputs in the dense model; returns arrays for each
        linear, which are kept until the Fisher information is known, after all calls; windows: number of calibration windows
        to use, every second of them for `Group.check`; key: name of what `see` computes; an interrupted call resumes only if
        the key is the same; fisher: number of calibration windows from which to compute E[g²] `[N]` of each linear's
        outputs, where g is the gradient of the loss with respect to an output, 0 for None.
        """

    @abstractmethod
    def replace(
        self,
        solve: Callable[[Group], Mapping[str, Replaced]],
        store: WeightStore,
        key: str,
        what: str = "solving",
    ) -> dict[str, Arrays]:
        """Put the new weights `[N, K]` of every linear, which `solve` returns for its group, in `store`.

        Returns the arrays and scales of the results (`Replaced.stored`). key: name of what `solve` computes; an interrupted
        call resumes only if the key is the same; what: name of the phase for the user. A feed that runs the model again for
        it uses the new weights for the inputs of later linears.
        """

    @abstractmethod
    def put(self, store: WeightStore, name: str, weight: torch.Tensor) -> None:
        """Put the new weight `[N, K]` of a linear in `store`. Raises MaskLearnError as `WeightStore.put` does."""
