"""What is known of a mask method without running it: what it needs, what it does, and what it ranks tiles by."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

from masklearn.registry import Registry

__all__ = ["METHODS", "Criterion", "MethodTraits", "Need", "Repair", "lacking", "method_names"]


class Need(StrEnum):
    """What a method may need of a model beside its weights."""

    INPUTS = "inputs"  # what reaches each linear on calibration text
    LOSS = "loss"  # gradients of the model's own loss at the linears' outputs
    TRAINING = "training"  # the whole model, to train in


class Criterion(StrEnum):
    """What tiles are ranked by: what turning one 2:4 costs."""

    # E[g²] of the linear's output gradient x output error: the loss it costs, to second order.
    FISHER = "fisher"
    RELATIVE = "relative"  # output error / output energy of the linear
    RAW = "raw"  # output error
    MAGNITUDE = "magnitude"  # sum of |w| that goes, in units of the linear's mean
    RANDOM = "random"  # a reference: seeded draw

    @property
    def needs(self) -> frozenset[Need]:
        """What ranking by it needs of a model."""
        if self in (Criterion.MAGNITUDE, Criterion.RANDOM):
            return frozenset()
        return frozenset({Need.INPUTS, Need.LOSS} if self is Criterion.FISHER else {Need.INPUTS})

    @property
    def unit(self) -> str:
        """A tile's score, in words."""
        return _UNITS[self]


_UNITS = {
    # E[g²]·δy² per token; the loss grows by half of it (`fisher`).
    Criterion.FISHER: "twice the loss that it adds, to second order, in nats per token",
    Criterion.RELATIVE: "share of the linear's output energy that is lost",
    Criterion.RAW: "squared output error per token",
    Criterion.MAGNITUDE: "Σ|w| of the tile in units of the linear's mean |w|",
    Criterion.RANDOM: "a random number for each weight",
}


class Repair(StrEnum):
    """What is done to the surviving weights once the masks are fixed."""

    NONE = "none"
    DISTILL = "distill"


class MethodTraits:
    """A mask method as a recipe and `--help` know it; `masklearn.methods.base.Method` is one that runs.

    name: as `--method` takes it; summary: one line for a list; needs: of the model, beside its weights; criteria: what it
    can rank tiles by, its own choice first, none where it has one way only, whose scores are in `unit`, in words; solves:
    it chooses patterns and solves the surviving weights once the tiles are chosen; repair: what follows unless the recipe
    says otherwise.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    criteria: ClassVar[tuple[Criterion, ...]] = ()
    unit: ClassVar[str] = ""
    solves: ClassVar[bool] = False
    repair: ClassVar[Repair] = Repair.NONE

    @classmethod
    def trains(cls) -> bool:
        """True when it trains masks by gradient descent, towards the recipe's ratio."""
        return Need.TRAINING in cls.needs


METHODS: Registry[MethodTraits] = Registry("masklearn.methods")


def method_names(*, trained: bool | None = None) -> tuple[str, ...]:
    """Names of all methods; trained: only those that train masks, or only the one-shot ones that do not."""
    return tuple(name for name, kind in METHODS.items() if trained in (None, kind.trains()))


def lacking(kind: type[MethodTraits], lacks: Mapping[Need, str]) -> tuple[Need, str] | None:
    """The first need of a method that a model can't meet, and why it can't; lacks: the reasons, by need."""
    return next(((need, lacks[need]) for need in sorted(kind.needs) if need in lacks), None)
