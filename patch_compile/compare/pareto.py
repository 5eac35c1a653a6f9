"""Which builds are worth having: those that no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DENSE", "Spot", "beaten_by"]

DENSE = "the dense model"  # its name among the builds


@dataclass(frozen=True)
class Spot:
    """A build in the picture: gain, of which more is better, and loss, of which less is."""

    name: str
    gain: float
    loss: float

    def beats(self, other: Spot) -> bool:
        """At least as good in both, and better in one."""
        at_least = self.gain >= other.gain and self.loss <= other.loss
        return at_least and (self.gain > other.gain or self.loss < other.loss)


def beaten_by(spots: Sequence[Spot]) -> dict[str, str | None]:
    """For each build the one that beats it, of several the one with the least loss; None for a Pareto point."""
    found: dict[str, str | None] = {}
    for spot in spots:
        better = [other for other in spots if other.beats(spot)]
        found[spot.name] = min(better, key=lambda one: (one.loss, -one.gain)).name if better else None
    return found
