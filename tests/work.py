"""Waits for events and counts work. Tests use these in place of seconds, which depend on the machine."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

_HANG = 600  # seconds, far more than anything takes that is waited for
_REFERENCE = (
    0.5  # seconds of the processor that `slowness` takes on the machine for which limits in seconds were set
)


def until(happened: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Wait until something has happened. Fails after ten minutes and says that `what` did not happen."""
    end = time.monotonic() + _HANG
    while not happened():
        assert time.monotonic() < end, what if isinstance(what, str) else what()
        time.sleep(0.01)


@contextmanager
def at_most_calls(most: int) -> Iterator[None]:
    """Fail as soon as this thread has called more than `most` functions, of Python and of C."""
    left = most

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        assert left >= 0, f"more than {most:,} function calls"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


@cache
def slowness() -> float:
    """Returns how many times longer than the machine of the limits this one computes, at least 1. Measured once.

    Limits in seconds that keep an input from computing for ever are multiplied by it.
    """
    began = time.process_time()
    for _ in range(4):
        hashlib.sha256(bytes(1 << 26))
    total = 0
    for number in range(4_000_000):
        total += number
    return max(1.0, (time.process_time() - began) / _REFERENCE)
