"""Progress of a build as a plain callback, and cancelling it from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt

    from patch_compile.engine.tensorrt_api import TensorRtApi

__all__ = ["Cancellation", "Progress", "progress_monitor"]

Progress = Callable[[str, int, int], bool | None]
"""`progress(phase, step, total)`: called from the build's thread; returning False (not None) cancels the build."""


class Cancellation:
    """A request to stop, by the user, by the callback, or by an error in the callback (kept in `error`)."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.error: BaseException | None = None

    @property
    def requested(self) -> bool:
        """Whether the build should stop at its next step."""
        return self._requested.is_set()

    def request(self, error: BaseException | None = None) -> None:
        """Ask for it; the first error is kept."""
        self.error = self.error or error
        self._requested.set()

    def ask(self, progress: Progress | None, phase: str, step: int, total: int) -> bool:
        """Report a step; False when the build should stop.

        Nothing may be raised from here: the caller is C++ that can't unwind, and an exception would end the process.
        """
        if progress is None or self.requested:
            return not self.requested
        try:
            if progress(phase, step, total) is False:
                self.request()
        except BaseException as error:
            self.request(error)
        return not self.requested


def progress_monitor(
    trt: TensorRtApi, progress: Progress | None, cancellation: Cancellation
) -> tensorrt.IProgressMonitor:
    """An IProgressMonitor that reports to `progress` and stops the build when `cancellation` asks for it."""
    if TYPE_CHECKING:
        from tensorrt import IProgressMonitor
    else:
        IProgressMonitor = trt.IProgressMonitor

    class Monitor(IProgressMonitor):
        def __init__(self) -> None:
            IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self.totals[phase_name] = num_steps
            cancellation.ask(progress, phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return cancellation.ask(progress, phase_name, step + 1, self.totals.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            self.totals.pop(phase_name, None)

    return Monitor()
