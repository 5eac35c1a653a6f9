"""Runs each model in a process of its own. The models take turns, and only one process works at a time.

Two engines can't always share a process: each may need its own PatchLinear plugin, and TensorRT takes only one of a name.
ONNX Runtime's sessions could share one, but would save no memory, since taking turns needs all of them loaded. Both
therefore use processes.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from patch_compile.bench.points import MakeFeed
from patch_compile.bench.timing import TimedModel
from patch_compile.errors import PatchCompileError
from patch_compile.out.bench import Phase

__all__ = ["OwnProcess"]

_PATIENCE = 10.0  # seconds that a process has to end by itself


class OwnProcess:
    """A `timing.TimedModel` that lives in a process of its own, where `open_runner` makes it.

    name: name of the model, in words. Raises PatchCompileError as `open_runner` does, and if the process ends.
    """

    def __init__(self, name: str, open_runner: Callable[[], TimedModel]) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads and the state of CUDA
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(open_runner, other), daemon=True)
        self._process.start()
        other.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def refuses(self, make: MakeFeed) -> str:
        """See `TimedModel`."""
        return str(self._ask("refuses", make))

    def prepare(self, make: MakeFeed, phase: Phase) -> None:
        """See `TimedModel`."""
        self._ask("prepare", make, phase)

    def run(self) -> float:
        """See `TimedModel`."""
        return float(self._ask("run"))

    def close(self) -> None:
        """See `TimedModel`. It ends the process."""
        self._pipe.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, what: str, *arguments: object) -> Any:
        try:
            self._pipe.send((what, arguments))
        except OSError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, error = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(error, tuple):
            raise PatchCompileError(*error)
        if error is not None:
            raise RuntimeError(f"in the process of the {self._name} model:\n{error}")
        return answer

    def _ended(self) -> PatchCompileError:
        self._process.join(_PATIENCE)
        return PatchCompileError(
            f"The process that ran the {self._name} model ended",
            f"Its exit code is {self._process.exitcode}. A machine without free memory ends processes with -9.",
            "Time fewer models at once (`--against dense`), or smaller batches and prompts.",
        )


def _serve(open_runner: Callable[[], TimedModel], pipe: Connection) -> None:
    """Open the runner and answer its calls until the other end of the pipe is closed."""
    # Only the parent handles the interrupt; it then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        try:
            runner = open_runner()
        except Exception as error:
            pipe.send((None, _told(error)))
            return
        pipe.send((None, None))
        while True:
            what, arguments = pipe.recv()
            pipe.send(_tried(runner, what, arguments))


def _tried(runner: TimedModel, what: str, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Returns the result of a call and None, or None and the error that the call raised."""
    try:
        return getattr(runner, what)(*arguments), None
    except Exception as error:
        return None, _told(error)


def _told(error: Exception) -> tuple[str, str, str] | str:
    if isinstance(error, PatchCompileError):
        return error.what, error.why, error.fix
    return "".join(traceback.format_exception(error))
