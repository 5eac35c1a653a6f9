"""Starts other Python interpreters. No other module does.

With `-c`, `-m` or an empty entry of PYTHONPATH, Python imports modules of the current folder before the standard
library's. The current folder may be a stranger's: people run commands in a checkpoint or a build that they downloaded.
"""

from __future__ import annotations

import io
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from patch_compile.errors import PatchCompileError

_FORBIDS = "PYTHONSAFEPATH"  # Python 3.11 and newer read it
_PATIENCE = 10.0  # seconds that a process has to end after its last answer


def forbid_current_folder() -> None:
    """Let no Python that this process or one of its libraries starts import modules of the current folder."""
    os.environ[_FORBIDS] = "1"


def _environment() -> dict[str, str]:
    """Returns the environment of a Python that imports from the folders that this one does, except the current folder."""
    return os.environ | {_FORBIDS: "1", "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))}


def run_pip(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip in a folder of ours until it ends. Its output is captured.

    pip asks rustc for its version, and rustup starts the rustc that a rust-toolchain.toml of the current folder names.
    """
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=_environment())


def run_foreign_python(
    python: Path, code: str, *arguments: str, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in another environment's Python until it ends. Its output is captured.

    The code runs in an empty folder, because a Python before 3.11 always imports from the current folder. Raises OSError if
    there is no such program, and TimeoutExpired after so many seconds.
    """
    own_paths = ("PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in own_paths}
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            [Path(shutil.which(python) or python).absolute(), "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            cwd=empty,
            env=environment | {_FORBIDS: "1"},
        )


class ProcessEnded(Exception):
    """A process ended before its answer. code: its exit code, or minus the signal that ended it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class PythonProcess:
    """A Python of its own, which makes an object and then calls its methods as asked.

    make: makes the object. It is pickled, as are the arguments and the results of calls. name: of the process, for errors;
    seconds: longest time that an answer may take, None for any time; environment: variables of that process only.

    Raises what `ask` raises, if `make` fails.
    """

    def __init__(
        self, name: str, make: Callable[[], Any], seconds: float | None = None, **environment: str
    ) -> None:
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment() | environment,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        self._requests = stdin
        self._answers = io.BufferedReader(_Limited(stdout, seconds))
        try:
            self._exchange(make)
        except BaseException:
            self.close(0)
            raise

    def ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the object, and return its result.

        Raises PatchCompileError if the method does, RuntimeError with the traceback of another error, ProcessEnded if the
        process ends, and TimeoutError if it takes too long.
        """
        return self._exchange((method, arguments))

    def close(self, patience: float = _PATIENCE) -> int:
        """End the process, and return its exit code. patience: seconds that it has to end by itself."""
        with suppress(OSError):  # what is not yet sent to a process that has ended
            self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()
        self._answers.close()
        return self._process.wait()

    def _exchange(self, what: object) -> Any:
        try:
            _send(self._requests, what)
            answer, error = pickle.load(self._answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise ProcessEnded(self.close()) from None
        if isinstance(error, tuple):
            raise PatchCompileError(*error)
        if error is not None:
            raise RuntimeError(f"in the process of {self._name}:\n{error}")
        return answer


class _Limited(io.RawIOBase):
    """Reads the file of a pipe, and not the buffer of its object. Raises TimeoutError if nothing arrives for `seconds`."""

    def __init__(self, pipe: IO[bytes], seconds: float | None) -> None:
        super().__init__()
        self._pipe, self._seconds, self._waiting = pipe, seconds, select.poll()
        self._waiting.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there into the buffer, and return its number of bytes; 0 at the end."""
        if not self._waiting.poll(None if self._seconds is None else 1000 * self._seconds):
            raise TimeoutError
        return os.readv(self._pipe.fileno(), [buffer])

    def close(self) -> None:
        self._pipe.close()
        super().close()


def _send(stream: IO[bytes], what: object) -> None:
    pickle.dump(what, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Make the object whose maker is sent first, and call its methods as asked, until the other process ends or closes."""
    subject, error = _tried(lambda: pickle.load(requests)())
    _send(answers, (None, error))
    while error is None:
        method, arguments = pickle.load(requests)
        _send(answers, _tried(getattr(subject, method), *arguments))


def _tried(call: Callable[..., Any], *arguments: object) -> tuple[Any, tuple[str, str, str] | str | None]:
    """Returns the result of a call and None, or None and the error that it raised."""
    try:
        return call(*arguments), None
    except PatchCompileError as error:
        return None, (error.what, error.why, error.fix)
    except Exception as error:
        return None, "".join(traceback.format_exception(error))


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process handles it, and then ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    with suppress(EOFError, BrokenPipeError):
        _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
