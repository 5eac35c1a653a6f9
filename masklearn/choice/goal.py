"""Goal of pruning: a ratio for all linears together or for each linear, ratios by pattern, or a saving in another unit.

`ratio` takes `0.4`, or `PATTERN=RATIO,PATTERN=RATIO,…` such as `0.3,mlp.*=0.5,v_proj=0` (`masklearn.masks.name_globs`).
Linears that no pattern fits stay dense, unless a ratio stands in front of the patterns.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import UsageError
from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import DENSE
from masklearn.masks.name_globs import decide, kinds_of, parse_values, spell_lists
from masklearn.quant.table import WeightType

_ROUNDING = 1e-9
LARGEST_RATIO = 0.5
"""Half of the weights are zeroed if every tile is 2:4."""
WEIGHTS, BYTES, OWN_BYTES = "weights", "bytes", "bytes of their own weight types"
"""Units of a goal for which `select` knows the saving of each tile. Bytes are counted in packed slabs, for 16-bit weights
unless they are of their own types."""


@dataclass(frozen=True)
class Share:
    """Linears whose tiles compete for a part of the goal: the tiles with the least cost per saving are pruned.

    spelled: the pattern or linear of this share, empty for all linears; names: the linears; saving: amount to save in
    them, in the goal's unit; at_least: True to reach or exceed it, False to meet it as nearly as tiles allow.
    """

    spelled: str
    names: tuple[str, ...]
    saving: float
    at_least: bool = False


@dataclass(frozen=True)
class Goal:
    """Amount that `select` has to save. `Goal.of_ratio` and `Goal.saving` make one.

    ratios: (pattern, ratio) in the user's order; the last pattern that fits a linear determines its ratio, and the empty
    pattern fits all; per_layer: True if each linear reaches its ratio, False if the linears of a pattern reach it
    together; amount: saving over all linears in `unit`, instead of ratios.

    uncounted: linears that stay dense and do not count in any ratio; spared: linears that stay dense and count: the other
    linears of their share save what they would have saved.
    """

    ratios: tuple[tuple[str, float], ...] = ()
    per_layer: bool = False
    amount: float | None = None
    unit: str = WEIGHTS
    uncounted: frozenset[str] = frozenset()
    spared: frozenset[str] = frozenset()

    @classmethod
    def of_ratio(cls, ratio: float | str, per_layer: bool = False) -> "Goal":
        """Makes a goal from a recipe's ratio.

        Raises UsageError if the ratio is outside 0 … 0.5 or misspelled.
        """
        try:
            parsed = parse_ratio(ratio)
        except ValueError as error:
            fix = "Give a ratio from 0 (dense) to 0.5 (uniform 2:4), or PATTERN=RATIO,…"
            raise UsageError(f"The ratio {ratio} is not valid", str(error), fix) from None
        return cls(tuple(parse_values(str(parsed), _number, "ratio")), per_layer)

    @classmethod
    def saving(cls, amount: float, unit: str) -> "Goal":
        """Makes a goal that saves at least `amount` of a unit (microseconds, bytes). `select` needs `costs` for all units
        but bytes.

        Raises UsageError if the amount is negative or not finite.
        """
        if not amount >= 0.0 or not np.isfinite(amount):
            raise UsageError(
                f"A saving of {amount} {unit} is not possible",
                "A saving is a number: 0 or more.",
                "Give 0 or more.",
            )
        return cls(amount=amount, unit=unit)

    @classmethod
    def of_bytes(cls, per_weight: float, weights: int, unit: str) -> "Goal":
        """Makes a goal that leaves at most `per_weight` bytes of each of `weights` weights on average."""
        return cls.saving((BYTES_DENSE - per_weight) * weights, unit)

    def by_linear(self, names: Sequence[str]) -> dict[str, tuple[str, float] | None]:
        """Returns the last (pattern, ratio) that fits each linear, or None if no pattern fits.

        Raises MaskLearnError for a pattern that fits no linear, or that is never the last pattern to fit.
        """
        return decide(self.ratios, names, "`ratio`")

    @property
    def dense(self) -> frozenset[str]:
        return self.uncounted | self.spared

    def sparing(self, linears: Iterable[str]) -> "Goal":
        """Returns the goal for which these linears stay dense, and the others of their shares save more instead."""
        return replace(self, spared=self.spared.union(linears))

    def counted(self, names: Sequence[str]) -> dict[str, float]:
        """Returns the ratio of each linear that a ratio above 0 counts over."""
        decided = {name: pair[1] for name, pair in self.by_linear(names).items() if pair}
        return {name: ratio for name, ratio in decided.items() if ratio and name not in self.uncounted}

    def shares(self, areas: Mapping[str, NDArray[np.int64]]) -> list[Share]:
        """Returns the shares of the goal. Each linear is in exactly one share; areas: weights of each tile by linear.

        A ratio has to save ratio x weights of its linears. Raises MaskLearnError as `by_linear` does.
        """
        if self.amount is not None:
            return [Share("", tuple(areas), self.amount, at_least=True)]
        weights = {name: int(grid.sum()) for name, grid in areas.items()}
        members: dict[tuple[str, float], list[str]] = {}
        for name, decision in self.by_linear(list(areas)).items():
            pattern, ratio = (None if name in self.uncounted else decision) or ("", 0.0)
            members.setdefault((name if self.per_layer else pattern, ratio), []).append(name)
        shares, spared = [], tuple(name for name in areas if name in self.spared)
        for (spelled, ratio), names in members.items():
            left = tuple(name for name in names if name not in self.spared)
            if left:
                shares.append(Share(spelled, left, ratio * sum(weights[name] for name in names)))
        return [*shares, Share("", spared, 0.0)] if spared else shares

    def evenly(self, weights: Mapping[str, int]) -> dict[str, float]:
        """Returns each linear's ratio if all linears of a share have the same; weights: number of weights by linear."""
        shares = self.shares({name: np.array([count]) for name, count in weights.items()})
        ratios = {share: share.saving / sum(weights[name] for name in share.names) for share in shares}
        by_name = {name: ratio for share, ratio in ratios.items() for name in share.names}
        return {name: by_name[name] for name in weights}

    def asked(self, areas: Mapping[str, NDArray[np.int64]]) -> float:
        """Returns the ratio that was asked for: the mean over the weights of the linears that count. Raises as `ratio`."""
        return self._mean(areas, [name for name in areas if name not in self.uncounted])

    def ratio(self, areas: Mapping[str, NDArray[np.int64]]) -> float:
        """Returns the ratio over all linears that follows from what was asked for: the mean over their weights.

        Raises ValueError for a goal in another unit than weights.
        """
        return self._mean(areas, list(areas))

    def _mean(self, areas: Mapping[str, NDArray[np.int64]], over: Sequence[str]) -> float:
        if self.unit != WEIGHTS:
            raise ValueError(f"A saving of {self.unit} is not a ratio.")
        if self.plain is not None and self.uncounted.isdisjoint(over):
            return self.plain
        total = sum(int(areas[name].sum()) for name in over)
        ratios = self.counted(list(areas)).items()
        return sum(ratio * int(areas[name].sum()) for name, ratio in ratios) / total if total else 0.0

    @property
    def plain(self) -> float | None:
        """The ratio of a goal that has the same for all linears, else None."""
        return self.ratios[0][1] if len(self.ratios) == 1 and not self.ratios[0][0] else None

    def left_dense(self, names: Sequence[str]) -> str:
        """Returns a line for the user about linears that no pattern fits, empty if there are none."""
        if self.amount is not None:
            return ""
        unfit = [name for name, decision in self.by_linear(names).items() if decision is None]
        if not unfit:
            return ""
        kinds = ", ".join(kinds_of(unfit))
        return f"no pattern of the ratio fits {kinds}: left dense, ratio 0 (a ratio in front of the patterns is theirs)"

    @property
    def spelled(self) -> float | str:
        """The ratio, or the ratios by pattern as a recipe has them."""
        return _spell(self.ratios) if self.plain is None else self.plain


def parse_ratio(ratio: float | str) -> float | str:
    """Check a ratio that a user spelled. Returns a float for a number, and text for patterns.

    Raises a ValueError of one line if it is empty, misspelled, or outside 0 … 0.5.
    """
    if not isinstance(ratio, str):
        return _number(ratio)
    if not ratio.strip():
        raise ValueError("It is empty. Give a number such as 0.4, or PATTERN=RATIO,…")
    pairs = parse_values(ratio, _number, "ratio")
    return _spell(pairs) if any(pattern for pattern, _ in pairs) else pairs[0][1]


def check_reachable(
    goal: Goal, linears: Mapping[str, tuple[int, int]], kinds: Mapping[str, tuple[TileKind, ...]]
) -> None:
    """Raises UsageError for a ratio that is more than the kinds of its linears zero.

    linears: (N, K) by name; kinds: kinds that their tiles may have.
    """
    weights = {name: rows * columns for name, (rows, columns) in linears.items()}
    for share in goal.shares({name: np.array([count]) for name, count in weights.items()}):
        most = sum(weights[name] * max(kind.zeros for kind in kinds[name]) for name in share.names)
        if share.saving > most * (1.0 + _ROUNDING):
            total = sum(weights[name] for name in share.names)
            where = f" in {share.spelled}" if share.spelled else ""
            allowed = dict.fromkeys(kind.name for name in share.names for kind in kinds[name])
            raise UsageError(
                f"A ratio of {share.saving / total:g}{where} cannot be reached",
                f"With every tile of the kind that zeroes most it is {most / total:g}; the kinds are {', '.join(allowed)}.",
                "Give a lower ratio, or `kinds` that zero more.",
            )


def check_bytes(
    per_weight: float,
    unit: str,
    linears: Mapping[str, tuple[int, int]],
    kinds: Mapping[str, tuple[TileKind, ...]],
    types: Mapping[str, tuple[WeightType, ...]],
) -> None:
    """Raises UsageError for bytes per weight that no choice reaches.

    unit: BYTES or OWN_BYTES; linears: (N, K) by name; kinds, types: what the tiles and the weights of each linear may be.
    """
    weights = {name: math.prod(shape) for name, shape in linears.items()}

    def least(name: str) -> float:
        if unit == BYTES:
            return min(kind.bytes_per_weight for kind in (DENSE, *kinds[name]))
        return min(
            kind.bytes_of(one) for one in types[name] for kind in (DENSE, *kinds[name]) if kind.goes_with(one)
        )

    fewest = sum(count * least(name) for name, count in weights.items()) / max(sum(weights.values()), 1)
    if per_weight < fewest:
        raise UsageError(
            f"{per_weight:g} bytes per weight cannot be reached with these types and kinds of tiles",
            "With every linear of the smallest type and every tile of the smallest kind it is "
            f"{math.ceil(fewest * 1e4) / 1e4:g}.",
            "Give more bytes, or `weights` and `kinds` that take fewer.",
        )


def _spell(ratios: Iterable[tuple[str, float]]) -> str:
    return spell_lists([(pattern, (repr(ratio),)) for pattern, ratio in ratios])


def _number(spelled: float | str) -> float:
    try:
        ratio = float(spelled)
    except ValueError:
        raise ValueError(f"{str(spelled).strip()!r} is not a number.") from None
    if not 0.0 <= ratio <= LARGEST_RATIO:
        raise ValueError(f"{ratio:g} is outside 0 … 0.5: with every tile 2:4 half of the weights are zeroed.")
    return ratio
