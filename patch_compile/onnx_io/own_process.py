"""Runs ONNX models in a process of its own: if ONNX Runtime crashes on a model or never ends, this is an error and does not
end the program.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.session import open_session, run_session
from patch_compile.onnx_io.time_limit import MOST, VARIABLE, time_exceeded, time_limit
from patch_compile.python_process import ProcessEnded, PythonProcess

if TYPE_CHECKING:  # every process of a model would import pydantic
    from patch_compile.onnx_io.feeds import Feed

_OWN_FIX = (
    "Leave the linears dense that it crashes on (--exclude, or --include for the others), and please report it with the "
    "model and the recipe."
)
_GIVEN_FIX = "Export the model again, by another exporter or at another opset, or install another version of onnxruntime."


def run_model(
    path: Path, feeds: Sequence[Feed], outputs: Sequence[str] | None = None, threads: int | None = None
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the outputs of each run by name.

    outputs: names of the outputs to return, which may also be inputs of the graph; None means all outputs; threads: number
    of threads of an operator, None for one thread per core.

    Raises PatchCompileError if the model can't be loaded, does not run on a feed, takes longer than `time_limit` for either,
    or makes ONNX Runtime crash.
    """
    with closing(_OwnModel(path, _OWN_FIX, threads)) as model:
        for feed in feeds:
            yield model.run(feed, outputs)


def run_in_turns(path: Path, feed: Feed, turns: Sequence[Sequence[str]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Run the model on the same inputs once for each turn, and yield the outputs of the turn by name.

    turns: names of outputs, which may also be inputs of the graph. Raises PatchCompileError as `run_model` does.
    """
    with closing(_OwnModel(path, _OWN_FIX)) as model:
        for outputs in turns:
            yield model.run(feed, outputs)


def check_runs(path: Path, feed: Feed, fix: str) -> dict[str, NDArray[Any]]:
    """Run a model that was given by the user, and return its outputs by name.

    fix: advice if it does not run on the feed. Raises PatchCompileError if ONNX Runtime refuses the model, crashes on it, or
    does not run it.
    """
    with closing(_OwnModel(path, _GIVEN_FIX)) as model:
        return model.run(feed, None, fix)


class _Model:
    """A model that is loaded in the process of its own. threads: see `open_session`."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._path, self._session = path, open_session(path, threads=threads)

    def run(self, feed: Feed, outputs: Sequence[str] | None) -> dict[str, NDArray[Any]]:
        return run_session(self._session, self._path, feed, outputs)


class _OwnModel:
    """A model and its process, seen from the parent process. fix: advice if it crashes; threads: see `open_session`."""

    def __init__(self, path: Path, fix: str, threads: int | None = None) -> None:
        self._path, self._fix, self._limit = path, fix, time_limit()
        with self._errors():
            most = {VARIABLE: str(MOST)}  # this process limits the time, and not the other
            self._process = PythonProcess(str(path), partial(_Model, path, threads), self._limit, **most)

    def run(self, feed: Feed, outputs: Sequence[str] | None, fix: str = "") -> dict[str, NDArray[Any]]:
        """Run it once. fix: advice if it does not run on the feed."""
        with self._errors(fix):
            made: dict[str, NDArray[Any]] = self._process.ask("run", feed, outputs)
        return made

    def close(self) -> None:
        """End the process at once: it has nothing to save."""
        self._process.close(0)

    @contextmanager
    def _errors(self, fix: str = "") -> Iterator[None]:
        try:
            yield
        except PatchCompileError as error:
            raise PatchCompileError(error.what, error.why, fix or error.fix) from None
        except TimeoutError:
            raise time_exceeded(self._path, self._limit) from None
        except ProcessEnded as ended:
            raise self._crashed(ended.code) from None

    def _crashed(self, code: int) -> PatchCompileError:
        import onnxruntime as ort

        if code == -signal.SIGKILL:
            return PatchCompileError(
                f"The process that ran {self._path} was killed",
                "A machine without free memory does that.",
                "Free memory, or take a machine with more.",
            )
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return PatchCompileError(
            f"ONNX Runtime crashes on {self._path}",
            f"The process in which onnxruntime {ort.__version__} ran it ended with {ending}.",
            self._fix,
        )
