"""Runs each model in a process of its own. The models take turns, and only one process works at a time.

Two engines can't always share a process: each may need its own PatchLinear plugin, and TensorRT takes only one of a name.
ONNX Runtime's sessions could share one, but would save no memory, since taking turns needs all of them loaded. Both
therefore use processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from patch_compile.artifacts.bench import Phase
from patch_compile.errors import PatchCompileError
from patch_compile.python_process import ProcessEnded, PythonProcess
from patch_compile.timing.points import MakeFeed
from patch_compile.timing.timing import TimedModel

__all__ = ["OwnProcess"]


class OwnProcess:
    """A `timing.TimedModel` that lives in a process of its own, where `open_runner` makes it.

    name: name of the model, in words. Raises PatchCompileError as `open_runner` does, and if the process ends.
    """

    def __init__(self, name: str, open_runner: Callable[[], TimedModel]) -> None:
        self._name = f"the {name} model"
        with self._errors():
            self._process = PythonProcess(self._name, open_runner)

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
        self._process.close()

    def _ask(self, method: str, *arguments: object) -> Any:
        with self._errors():
            return self._process.ask(method, *arguments)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ProcessEnded as ended:
            raise PatchCompileError(
                f"The process that ran {self._name} ended",
                f"Its exit code is {ended.code}. A machine without free memory ends processes with -9.",
                "Time fewer models at once (`--against dense`), or smaller batches and prompts.",
            ) from None
