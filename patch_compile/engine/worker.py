"""Runs the builder's C++ in a worker thread, so that Ctrl-C interrupts Python code and not a callback from C++."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from patch_compile.engine.monitor import Cancellation

__all__ = ["run_cancellable"]

_Result = TypeVar("_Result")


def run_cancellable(work: Callable[[], _Result], cancellation: Cancellation) -> _Result:
    """Run `work` in a thread and return its result. `work` should check `cancellation` between its steps.

    On Ctrl-C this requests the cancellation, waits for `work` to end and raises KeyboardInterrupt again.
    """
    with ThreadPoolExecutor(1, "engine-builder") as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt as interrupt:
            cancellation.request(interrupt)
            raise
