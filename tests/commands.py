"""`patch-compile` in this process: the same `main`, without the seconds that an interpreter needs to import torch."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest.mock import patch

from patch_compile.cli import app as cli

__all__ = ["Done", "run_here"]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run_here(*arguments: object) -> Done:
    """Exit code and what was said. A traceback, which is a fault of ours, is raised."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["patch-compile", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            return Done(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main ends by an exit code")
