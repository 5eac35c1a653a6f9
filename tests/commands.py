"""Runs `patch-compile`: as a process of its own, or in this process, which saves the seconds that importing torch takes."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from patch_compile.cli import app as cli

PROGRAM = Path(sys.executable).with_name("patch-compile")  # the installed program


@dataclass(frozen=True)
class Done:
    """Result of a finished command."""

    returncode: int
    stdout: str
    stderr: str


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Spell settings as options of a command."""
    flags = []
    for name, value in settings.items():
        spelled = "x".join(map(str, value)) if name == "tile" else str(value)
        flags += ["--" + {"eval_text": "eval"}.get(name, name.replace("_", "-")), spelled]
    return flags


def run(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    command = [sys.executable, "-m", "patch_compile", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def run_here(*arguments: object) -> Done:
    """Run the command in this process. Fails for an internal error, and shows its traceback."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["patch-compile", "--debug", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            copy_context().run(cli.main)  # the library keeps speaking of arguments
        except SystemExit as end:
            assert end.code != cli.INTERNAL, err.getvalue()
            return Done(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main ends by an exit code")
