"""Runs ONNX models in a process of its own: if ONNX Runtime crashes on a model or never ends, that is an error and not the
end of the program.

The process is this module run as a program. It is no child of `multiprocessing`, which would run the caller's main module
again.
"""

from __future__ import annotations

import io
import os
import pickle
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.session import open_session, run_session
from patch_compile.onnx_io.time_limit import MOST, VARIABLE, time_exceeded, time_limit

__all__ = ["check_runs", "run_in_turns", "run_model"]

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
    of threads of an operator, None for one per core.

    Raises PatchCompileError if the model can't be loaded, does not run on a feed, takes longer than `time_limit` for either,
    or makes ONNX Runtime crash.
    """
    with _Process(path, _OWN_FIX, threads) as process:
        for feed in feeds:
            yield process.ask(feed, outputs)


def run_in_turns(path: Path, feed: Feed, turns: Sequence[Sequence[str]]) -> Iterator[dict[str, NDArray[Any]]]:
    """Run the model on the same inputs once for each turn, and yield the outputs of the turn by name.

    turns: names of outputs, which may also be inputs of the graph. Raises PatchCompileError as `run_model` does.
    """
    with _Process(path, _OWN_FIX) as process:
        for outputs in turns:
            yield process.ask(feed, outputs)


def check_runs(path: Path, feed: Feed, fix: str) -> dict[str, NDArray[Any]]:
    """Run a model that was given by the user, and return its outputs by name.

    fix: what helps if it does not run on the feed. Raises PatchCompileError if ONNX Runtime refuses the model,
    crashes on it, or does not run it.
    """
    with _Process(path, _GIVEN_FIX) as process:
        outputs: dict[str, NDArray[Any]] = process.ask(feed, None, fix=fix)
    return outputs


class _Process:
    """A process that has loaded a model. fix: what helps if it crashes; threads: as in `open_session`."""

    def __init__(self, path: Path, fix: str, threads: int | None = None) -> None:
        self._path, self._fix, self._threads = path, fix, threads
        self._limit = time_limit()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            VARIABLE: str(MOST),  # this process limits the time, and not the other
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        self._requests = stdin
        self._answers = io.BufferedReader(_Limited(stdout, self._limit))

    def __enter__(self) -> Self:
        try:
            self.ask(self._path, self._threads)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, *arguments: object, fix: str = "") -> Any:
        """Send arguments to the process and return its answer, or raise its error, with `fix` if that is given."""
        try:
            _send(self._requests, arguments)
            answer, error = pickle.load(self._answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise self._crashed() from None
        except TimeoutError:
            raise time_exceeded(self._path, self._limit) from None
        if isinstance(error, tuple):
            what, why, generic = error
            raise PatchCompileError(what, why, fix or generic)
        if error is not None:
            raise RuntimeError(f"in the process that runs {self._path}:\n{error}")
        return answer

    def _end(self) -> None:
        self._process.kill()  # it holds nothing that would have to be saved
        self._process.communicate()

    def _crashed(self) -> PatchCompileError:
        import onnxruntime as ort

        code = self._process.wait()
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


class _Limited(io.RawIOBase):
    """Reads the file of a pipe, and not the buffer of its object. Raises TimeoutError if nothing arrives for `seconds`."""

    def __init__(self, pipe: IO[bytes], seconds: float) -> None:
        super().__init__()
        self._pipe, self._seconds, self._waiting = pipe, seconds, select.poll()
        self._waiting.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there into the buffer, and return its number of bytes; 0 at the end."""
        if not self._waiting.poll(1000 * self._seconds):
            raise TimeoutError
        return os.readv(self._pipe.fileno(), [buffer])


def _send(stream: IO[bytes], what: object) -> None:
    pickle.dump(what, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Load the model whose path and threads are sent first, and run it on each feed that follows, until no more come."""
    path, threads = pickle.load(requests)
    try:
        session = open_session(path, threads=threads)
    except Exception as error:
        _send(answers, (None, _told(error)))
        return
    _send(answers, (None, None))
    while True:
        feed, outputs = pickle.load(requests)
        try:
            _send(answers, (run_session(session, path, feed, outputs), None))
        except Exception as error:
            _send(answers, (None, _told(error)))


def _told(error: Exception) -> tuple[str, str, str] | str:
    if isinstance(error, PatchCompileError):
        return error.what, error.why, error.fix
    return "".join(traceback.format_exception(error))


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process handles it, and then ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    with suppress(EOFError, BrokenPipeError):
        _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
