"""Finds the builds that no other build beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spot", "beaten_by"]


@dataclass(frozen=True)
class Spot:
    """A build as a point in the picture. gain: more is better; loss: less is better."""

    name: str
    gain: float
    loss: float

    def beats(self, other: Spot) -> bool:
        """Returns True if it is at least as good in both coordinates, and better in one."""
        at_least = self.gain >= other.gain and self.loss <= other.loss
        return at_least and (self.gain > other.gain or self.loss < other.loss)


def beaten_by(spots: Sequence[Spot]) -> dict[str, str | None]:
    """Returns the build that beats each build, by name, or None for a Pareto point.

    If several builds beat one, it names the one with the smallest loss.
    """
    found: dict[str, str | None] = {}
    for spot in spots:
        better = [other for other in spots if other.beats(spot)]
        found[spot.name] = min(better, key=lambda one: (one.loss, -one.gain)).name if better else None
    return found
