"""Runs the builder's C++ outside the main thread, so that Ctrl-C reaches Python and never a C++ callback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from patch_compile.engine.monitor import Cancellation

__all__ = ["run_cancellable"]

_Result = TypeVar("_Result")


def run_cancellable(work: Callable[[], _Result], cancellation: Cancellation) -> _Result:
    """The result of `work`, which should look at `cancellation` between its steps.

    On Ctrl-C the work is asked to stop and awaited, then KeyboardInterrupt goes on its way.
    """
    with ThreadPoolExecutor(1, "engine-builder") as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt as interrupt:
            cancellation.request(interrupt)
            raise
