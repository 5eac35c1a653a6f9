"""Losses of quality among which a choice takes the least: of pruned tiles, and of weights that are rounded, in one unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.quant.table import INT4, INT8, W8A8, WeightType

Grids = Mapping[str, NDArray[Any]]
Points = dict[TileKind, NDArray[Any]]
"""Numbers of a linear's tiles, `[grid]` by kind."""

Scores = Mapping[str, Any]
"""Numbers of tiles by linear: a grid `[grid]` for 2:4, or `Points`."""


@dataclass(frozen=True)
class RoundingLoss:
    """Loss of quality if all weights of a linear are rounded, in the unit of the tiles' scores.

    by_type: loss with each quantised type that the linear may have; inputs: name of the first linear with the same inputs.
    Linears with the same input are packed together, and so get the same type.
    """

    by_type: Mapping[WeightType, float]
    inputs: str


RoundingLosses = Mapping[str, RoundingLoss]
Pairs = Iterable[tuple[str, ...]]
"""Linears whose tiles in the same place are to have the same kind."""
_NO_ROUNDING: RoundingLosses = MappingProxyType({})

# Loss of rounding a linear, as a share of what it loses with every tile 2:4. Measured with the scores of `learn --weights
# auto` (relative output error, 16 windows) on the 35 linears of blocks 2, 9, 16, 23 and 29 of SmolLM2-135M. Single linears
# reach from .0005 to .0035 (int8) and from .056 to .22 (int4). w8a8 has the shares of the whole model's loss: smoothed, its
# perplexity rises from 30.64 to 30.90, by .008 nats, and with every tile 2:4 from 29.2 to 100.3.
_ASSUMED: Mapping[WeightType, float] = {INT8: 0.0007, W8A8: 0.0065, INT4: 0.084}


@dataclass(frozen=True)
class Losses:
    """Losses of all linears.

    scores: loss of each tile if it is pruned, `[grid]` by linear and kind, or by linear only of 2:4; areas: weights of each
    tile, int `[grid]` by linear (`tiles.tile_weights`); rounding: losses of the linears whose types are to be chosen.
    """

    scores: Scores
    areas: Grids
    rounding: RoundingLosses = field(default_factory=lambda: _NO_ROUNDING)

    @classmethod
    def assumed(
        cls, areas: Grids, kinds: Mapping[str, tuple[TileKind, ...]], inputs: Mapping[str, str]
    ) -> Losses:
        """Returns losses for a plan, which knows no scores: all zeroed weights lose alike, and rounding a constant share.

        kinds: kinds that the tiles of each linear may have; inputs: by linear, the first linear with the same inputs.
        """
        scores = {
            name: {kind: areas[name] * (kind.zeros / TWO_FOUR.zeros) for kind in own}
            for name, own in kinds.items()
        }
        rounding = {
            name: RoundingLoss(
                {weights: share * int(areas[name].sum()) for weights, share in _ASSUMED.items()}, first
            )
            for name, first in inputs.items()
        }
        return cls(scores, areas, rounding)

    def in_pairs(self, pairs: Pairs) -> Losses:
        """Returns losses with which the tiles in the same place of a pair have equal losses, the mean of both.

        So they are chosen one after the other, and have the same kind. At the end of a goal a pair may be parted. Linears
        whose tiles may not have the same kinds stay apart.
        """
        scores = dict(self.scores)
        for pair in pairs:
            own = [points_of(scores[name]) for name in pair if name in scores]
            shapes = [{kind: grid.shape for kind, grid in points.items()} for points in own]
            if len(own) == len(pair) and all(one == shapes[0] for one in shapes):
                mean = {kind: np.mean([points[kind] for points in own], axis=0) for kind in own[0]}
                scores |= dict.fromkeys(pair, mean)
        return replace(self, scores=scores)

    def of_rounding(self, types: Mapping[str, WeightType]) -> float:
        """Returns the loss of rounding all weights to these types, by linear."""
        rounding = self.rounding
        return sum(
            rounding[name].by_type.get(weights, 0.0) for name, weights in types.items() if name in rounding
        )


def assumed_loss(weights: WeightType) -> float:
    """Returns the loss of rounding a linear to a type, over its loss with every tile 2:4, as plans assume it."""
    return _ASSUMED.get(weights, 0.0)


def points_of(grids: Any) -> Points:
    """Returns the grids of a linear's tiles by kind. A single grid is for 2:4."""
    return dict(grids) if isinstance(grids, Mapping) else {TWO_FOUR: np.asarray(grids)}
