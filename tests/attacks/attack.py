"""Result of one kind of attack, and the folder where attacks keep what they make and what they find."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parents[2] / "build/torture"


@dataclass(frozen=True)
class Attack:
    """Result of one kind of attack.

    words: what was tried, for users of the program; tried: number of attempts; broken: one line for each attempt that did
    not end as it should, with the arguments that replay it.
    """

    words: str
    tried: int
    broken: Sequence[str] = ()

    def __post_init__(self) -> None:
        assert self.tried >= max(1, len(self.broken)), (
            f"{self.words}: {len(self.broken)} of {self.tried} broken"
        )


def run(name: str, module: str, options: Mapping[str, Any]) -> None:
    """Run the attack of a module, print its results, and end this process, with exit code 1 if anything broke."""
    found: list[Attack] = importlib.import_module(module).attack(**options)
    size = f"{options['count']:,}" if "count" in options else "part" if "only" in options else "full"
    for one in found:
        tried, broken = one.tried, len(one.broken)
        print(f"| {name} | {one.words} | {size} | {tried:,} | {tried - broken:,} | {broken:,} |")
    lines = [f"- {one.words}: {line}" for one in found for line in one.broken]
    print(*lines, sep="\n", end="\n" * bool(lines), flush=True)
    sys.exit(bool(lines))
