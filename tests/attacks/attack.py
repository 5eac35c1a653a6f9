"""The result of one kind of attack, and the file that collects the results of a run of `make torture`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "build/torture/RESULTS.jsonl"


@dataclass(frozen=True)
class Attack:
    """Result of one kind of attack.

    attack: what was tried, in words that a user of the program understands; tried: number of attempts; held: number of
    attempts that ended as they should; broken: one line for each of the others, with what it takes to replay it.
    """

    attack: str
    tried: int
    held: int
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tried < 1 or self.held + len(self.broken) != self.tried:
            raise ValueError(
                f"{self.attack}: {self.tried} tried are not {self.held} held and {len(self.broken)}"
            )

    @classmethod
    def of(cls, attack: str, tried: int, broken: Iterable[str]) -> Attack:
        """Returns the result of `tried` attempts, of which all but the `broken` held."""
        lines = tuple(broken)
        return cls(attack, tried, tried - len(lines), lines)


def write(attacks: Iterable[Attack], path: Path, run: Mapping[str, Any] | None = None) -> None:
    """Append one JSON object a line: {"attack": str, "tried": int, "held": int, "broken": [str, ...]}, and under "run" the
    facts of the run if they are given."""
    facts = {} if run is None else {"run": dict(run)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(one) | facts) + "\n" for one in attacks)
