"""What a plan says in lines: why linears are not `plugin`, and how fast the whole model is predicted to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from masklearn.masks.names import kind_of, short_kinds

__all__ = ["choice_line", "reason_lines", "speed_line"]

Row = Mapping[str, Any]
_PHASES = {"end_to_end": "end to end", "prefill": "prefill", "decode": "decode"}


def reason_lines(linears: Iterable[Row]) -> Iterator[str]:
    """One line for each lowering and reason, with the kinds of linear that have it."""
    linears = list(linears)
    short = short_kinds(dict.fromkeys(kind_of(row["name"]) for row in linears))
    found: dict[tuple[str, str], Counter[str]] = {}
    for row in linears:
        if row["reason"]:
            key = (row["lowering"], row["reason"])
            found.setdefault(key, Counter())[short[kind_of(row["name"])]] += 1
    for (lowering, reason), kinds in found.items():
        yield f"{lowering}: {', '.join(f'{kind} ×{count}' for kind, count in kinds.items())}: {reason}"


def speed_line(plan: Row) -> str:
    """Speed of the whole model beside its limits; plan: of `summarise_plan`. Empty where nothing is predicted."""
    whole = plan["whole"]
    if whole is None:
        return ""
    speeds = (
        f"{words} {whole[phase]['speedup']:.2f} (limit {whole[phase]['limit']:.2f})"
        for phase, words in _PHASES.items()
    )
    return f"predicted speed-up on {plan['card']['words']}, {plan['workload']['words']}: {', '.join(speeds)}"


def choice_line(speed: Row | None) -> str:
    """How tiles were chosen for a speed; speed: the record of `TilesForSpeed`, None where a ratio chose them."""
    if speed is None:
        return ""
    return (
        f"tiles chosen for {speed['goal']} on {speed['card']}: {speed['tiles']} that lose {speed['cost']:.4g} in the "
        f"method's score; no tile map that saves as much loses less than {speed['bound']:.4g} (the linear program), a gap "
        f"of {speed['gap']:.2%}"
    )
