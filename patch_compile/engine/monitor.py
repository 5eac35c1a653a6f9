"""Reports the progress of a build to a callback, and lets any thread cancel the build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt

    from patch_compile.engine.tensorrt_api import TensorRtApi

__all__ = ["Cancellation", "OnBuildStep", "progress_monitor"]

OnBuildStep = Callable[[str, int, int], bool | None]
"""`progress(phase, step, total)` is called from the build's thread. It cancels the build by returning False (not None)."""


class Cancellation:
    """Request to stop a build, made by the user, by the callback, or by an error (kept in `error`)."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.error: BaseException | None = None

    @property
    def requested(self) -> bool:
        """True if the build should stop at its next step."""
        return self._requested.is_set()

    def request(self, error: BaseException | None = None) -> None:
        """Ask the build to stop; of several errors the first is kept."""
        self.error = self.error or error
        self._requested.set()

    def ask(self, progress: OnBuildStep | None, phase: str, step: int, total: int) -> bool:
        """Report a step. Returns False if the build should stop.

        Raises nothing: C++ calls this and can't unwind, so an exception would end the process. An error of `progress`
        is kept in `error` instead.
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
    trt: TensorRtApi, progress: OnBuildStep | None, cancellation: Cancellation
) -> tensorrt.IProgressMonitor:
    """Returns an IProgressMonitor that reports to `progress` and stops the build if `cancellation` is requested."""
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
