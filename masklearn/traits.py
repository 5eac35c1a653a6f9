"""Traits of mask methods, which are known without running them: needs, criteria to rank tiles by, and repair."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

from masklearn.base.registry import Registry


class Requires(StrEnum):
    """Things that a method may need from a model besides its weights."""

    INPUTS = "inputs"  # inputs of each linear on calibration text
    LOSS = "loss"  # gradients of the model's own loss with respect to the linears' outputs
    TRAINING = "training"  # the whole model, for training


FISHER_WINDOWS = 16  # windows of 512 tokens from which `Criterion.FISHER` is computed


class Criterion(StrEnum):
    """Score that ranks tiles: the cost of pruning a tile."""

    # E[g²] of the gradient g of the linear's outputs x squared output error: twice the increase of the loss, to second
    # order.
    FISHER = "fisher"
    RELATIVE = "relative"  # squared output error / output energy of the linear
    RAW = "raw"  # squared output error
    MAGNITUDE = "magnitude"  # sum of the tile's |w|, in units of the linear's mean |w|
    RANDOM = "random"  # random draw by the seed, as a reference

    @property
    def needs(self) -> frozenset[Requires]:
        if self in (Criterion.MAGNITUDE, Criterion.RANDOM):
            return frozenset()
        return frozenset({Requires.INPUTS, Requires.LOSS} if self is Criterion.FISHER else {Requires.INPUTS})


class Repair(StrEnum):
    """Repair of the surviving weights after the masks are fixed."""

    NONE = "none"
    DISTILL = "distill"


class MethodTraits:
    """Traits of a mask method, for recipes and `--help`; `masklearn.methods.base.Method` is a method that runs.

    name: value of `method`; summary: one line for lists; needs: things that it needs from the model besides weights;
    criteria: criteria that it can rank tiles by, its default first, () if it has its own; solves: True if it chooses
    patterns and solves surviving weights after the tiles are chosen; repair: repair if the recipe does not say otherwise;
    permutes: True if a build with it reorders hidden channels unless told otherwise; only_two_four: True if it learns no
    other kind of tile.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Requires]] = frozenset()
    criteria: ClassVar[tuple[Criterion, ...]] = ()
    solves: ClassVar[bool] = False
    repair: ClassVar[Repair] = Repair.NONE
    permutes: ClassVar[bool] = False
    only_two_four: ClassVar[bool] = False

    @classmethod
    def trains(cls) -> bool:
        """Returns True if the method trains masks by gradient descent, towards the recipe's ratio."""
        return Requires.TRAINING in cls.needs


METHODS: Registry[MethodTraits] = Registry("masklearn.methods")


def method_names(*, trained: bool | None = None) -> tuple[str, ...]:
    """Returns the names of methods; trained: True for methods that train masks, False for one-shot methods, None for all."""
    return tuple(name for name, kind in METHODS.items() if trained in (None, kind.trains()))


def lacking(kind: type[MethodTraits], why_not: Mapping[Requires, str]) -> tuple[Requires, str] | None:
    """Returns the first need of a method that a model can't meet and the reason, or None; lacks: reasons by need."""
    return next(((need, why_not[need]) for need in sorted(kind.needs) if need in why_not), None)
