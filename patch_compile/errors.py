"""Errors of the compiler. `PatchCompileError` names masklearn's error class too: it catches all that a command raises."""

import math
from collections.abc import Callable
from contextvars import ContextVar

from masklearn.base.errors import HOW_TO_CORRECT, MaskLearnError, UsageError, reading

__all__ = [
    "HOW_TO_CORRECT",
    "NOT_CHECKED",
    "SPELLING",
    "AccuracyError",
    "InvariantError",
    "PatchCompileError",
    "SpeedError",
    "UsageError",
    "reading",
    "sentence",
]

PatchCompileError = MaskLearnError
SPELLING: ContextVar[Callable[[str], str]] = ContextVar("SPELLING", default=str)
"""Spells the settings that a text names: as flags once the command line sets it, as arguments while a function of the
library runs without it."""
NOT_CHECKED = 5  # exit code of a check that found no fault but could not answer every question


def sentence(clause: str) -> str:
    """Returns a clause, such as the reason that a check returns, with a capital and a period."""
    return f"{clause[:1].upper()}{clause[1:].rstrip('.')}." if clause else ""


class AccuracyError(PatchCompileError):
    """Error for two results that must agree but do not. Exit code 3."""

    exit_code = 3


class SpeedError(PatchCompileError):
    """Error for a requested speed that cannot be reached. Exit code 4. fastest: the fastest plan's milliseconds."""

    exit_code = 4

    def __init__(self, what: str, why: str = "", fix: str = "", *, fastest: float = math.inf) -> None:
        super().__init__(what, why, fix)
        self.fastest = fastest


class InvariantError(Exception):
    """Error for a broken rule of the packed format. It is a fault of this program, see `cli.app.main`."""


# A traceback names each class as users of this package know it.
PatchCompileError.__name__ = PatchCompileError.__qualname__ = "PatchCompileError"
for _class in (PatchCompileError, UsageError, AccuracyError, SpeedError):
    _class.__module__ = "patch_compile"
