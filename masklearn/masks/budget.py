"""How much is to be pruned: one ratio for all linears, for each, or ratios by pattern; or a saving in another unit.

Spelled as `--ratio` takes it: `0.4`, or `PATTERN=RATIO,PATTERN=RATIO,…` such as `mlp.*=0.5,v_proj=0`, with the patterns
of `masklearn.masks.names`. **The last pattern that fits decides**, so the general comes before the particular:
`*=0.3,mlp.*=0.5`. Linears that no pattern fits stay dense.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.errors import UsageError
from masklearn.masks.names import decide, kinds_of, parse_pairs
from masklearn.masks.record import BudgetRecord

__all__ = ["Budget", "Share", "check_ratio", "parse_ratio"]

_MOST = 0.5  # with every tile 2:4 half of the weights are zeroed
WEIGHTS = "weights"


@dataclass(frozen=True)
class Share:
    """Linears that are one problem: the tiles that cost least among all of theirs are made 2:4.

    spelled: the pattern or the linear that it belongs to, empty for all; saving: what is to be saved in them, in the
    budget's unit; at_least: reached or exceeded, instead of met as nearly as tiles allow.
    """

    spelled: str
    names: tuple[str, ...]
    saving: float
    at_least: bool = False


@dataclass(frozen=True)
class Budget:
    """What `select` is to save. Make one with `Budget.of` or `Budget.saving`.

    ratios: (pattern, ratio) in the order spelled, the last that fits a linear decides, an empty pattern fits all;
    per_layer: each linear has its ratio, instead of all that a pattern decides for together; amount: a saving over
    all linears in `unit`, in place of ratios.
    """

    ratios: tuple[tuple[str, float], ...] = ()
    per_layer: bool = False
    amount: float | None = None
    unit: str = WEIGHTS

    @classmethod
    def of(cls, ratio: float | str, per_layer: bool = False) -> "Budget":
        """From a recipe's ratio. UsageError when it is outside 0 ... 0.5, ValueError when misspelled."""
        parsed = parse_ratio(ratio) if isinstance(ratio, str) else ratio
        if isinstance(parsed, str):
            return cls(tuple(_pairs(parsed)), per_layer)
        check_ratio(parsed)
        return cls((("", parsed),), per_layer)

    @classmethod
    def saving(cls, amount: float, unit: str) -> "Budget":
        """Save at least `amount` of a unit in which `select` is told what each tile saves (microseconds, bytes)."""
        if not amount >= 0.0 or not np.isfinite(amount):
            raise UsageError(
                f"A saving of {amount} {unit} is not possible", "It is not 0 or more.", "Give 0 or more."
            )
        return cls(amount=amount, unit=unit)

    def by_linear(self, names: Sequence[str]) -> dict[str, tuple[str, float] | None]:
        """(pattern, ratio) that decides for each linear, None where no pattern fits.

        PatchCompileError for a pattern that fits no linear, or that decides for none because later ones do.
        """
        return decide(self.ratios, names, "--ratio")

    def shares(self, areas: Mapping[str, NDArray[np.int64]]) -> list[Share]:
        """The problems that the budget falls into; areas: weights of each tile by linear. Each linear is in one.

        The saving of a ratio is ratio x weights of the linears it decides for. PatchCompileError: see `by_linear`.
        """
        if self.amount is not None:
            return [Share("", tuple(areas), self.amount, at_least=True)]
        weights = {name: int(grid.sum()) for name, grid in areas.items()}
        members: dict[tuple[str, float], list[str]] = {}
        for name, decision in self.by_linear(list(areas)).items():
            pattern, ratio = decision or ("", 0.0)
            members.setdefault((name if self.per_layer else pattern, ratio), []).append(name)
        return [
            Share(spelled, tuple(names), ratio * sum(weights[name] for name in names))
            for (spelled, ratio), names in members.items()
        ]

    def ratio(self, areas: Mapping[str, NDArray[np.int64]]) -> float:
        """The ratio asked for over all linears: the mean, weighted by weights; of budgets in weights only."""
        if self.unit != WEIGHTS:
            raise ValueError(f"A saving of {self.unit} is not a ratio.")
        if len(self.ratios) == 1 and not self.ratios[0][0]:
            return self.ratios[0][1]
        total = sum(int(grid.sum()) for grid in areas.values())
        return sum(share.saving for share in self.shares(areas)) / total if total else 0.0

    def left_dense(self, names: Sequence[str]) -> str:
        """A line for a person on linears that no pattern fits; empty when there are none."""
        if self.amount is not None:
            return ""
        unfit = [name for name, decision in self.by_linear(names).items() if decision is None]
        if not unfit:
            return ""
        kinds = ", ".join(kinds_of(unfit))
        return f"no pattern of the ratio fits {kinds}: left dense (*=RATIO in front decides for the rest)"

    def record(self) -> BudgetRecord:
        """The budget as it was asked for."""
        if self.amount is not None:
            return BudgetRecord(amount=self.amount, unit=self.unit)
        plain = len(self.ratios) == 1 and not self.ratios[0][0]
        ratio = self.ratios[0][1] if plain else _spell(self.ratios)
        return BudgetRecord(ratio=ratio, per_layer=self.per_layer, unit=self.unit)


def parse_ratio(ratio: float | str) -> float | str:
    """A ratio as a person spells it: a number becomes a float, patterns stay text once they are found correct.

    ValueError in one line when it is empty, holds what is no number, or a ratio outside 0 … 0.5.
    """
    if not isinstance(ratio, str):
        return _number(ratio)
    if not ratio.strip():
        raise ValueError("It is empty. Give a number such as 0.4, or PATTERN=RATIO,…")
    return _spell(_pairs(ratio)) if "=" in ratio else _number(ratio)


def check_ratio(ratio: float) -> None:
    """UsageError outside 0 ... 0.5."""
    if not 0.0 <= ratio <= _MOST:
        raise UsageError(
            f"Ratio {ratio} is outside 0 ... 0.5",
            "It is zeroed weights / weights; with every tile 2:4 half of the weights are zeroed.",
            "Give a ratio between 0 (dense) and 0.5 (uniform 2:4).",
        )


def _spell(ratios: Iterable[tuple[str, float]]) -> str:
    return ",".join(f"{pattern}={ratio!r}" for pattern, ratio in ratios)


def _pairs(text: str) -> Iterator[tuple[str, float]]:
    return ((pattern, _number(ratio)) for pattern, ratio in parse_pairs(text, "RATIO"))


def _number(spelled: float | str) -> float:
    try:
        ratio = float(spelled)
    except ValueError:
        raise ValueError(f"{str(spelled).strip()!r} is not a number") from None
    if not 0.0 <= ratio <= _MOST:
        raise ValueError(f"{ratio:g} is outside 0 … 0.5: with every tile 2:4 half of the weights are zeroed")
    return ratio
