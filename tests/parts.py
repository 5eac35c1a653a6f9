"""The quick tests, which `make test` runs.

A file of tests is quick if it took less than SLOW seconds by durations.txt, or is not in durations.txt yet. In other files
only tests with the mark `quick` are quick: one real run of each kind, so that `make test` enters every room. Tests with
the mark `sweep`, one more architecture each, are never quick.
"""

import re
from functools import cache
from pathlib import Path

import pytest

SLOW = 5.0  # seconds
_HERE = Path(__file__).parent
_FILE = re.compile(r" *(\d+\.\d) +\d+ (tests/\S+\.py)")


def durations() -> list[str]:
    """Returns the lines of durations.txt."""
    return (_HERE / "durations.txt").read_text(encoding="utf-8").splitlines()


@cache
def slow_files() -> frozenset[str]:
    """Returns the slow files, relative to the repository."""
    found = (_FILE.fullmatch(line) for line in durations())
    return frozenset(match[2] for match in found if match and float(match[1]) >= SLOW)


def is_quick(item: pytest.Item) -> bool:
    file = item.path.relative_to(_HERE.parent).as_posix()
    quick = file not in slow_files() or item.get_closest_marker("quick") is not None
    return quick and item.get_closest_marker("sweep") is None
