"""Errors of the compiler; `PatchCompileError` and `UsageError` are shared with `masklearn`."""

from masklearn.errors import HOW_TO_CORRECT, PatchCompileError, UsageError, member

__all__ = [
    "HOW_TO_CORRECT",
    "AccuracyError",
    "InvariantError",
    "PatchCompileError",
    "SpeedError",
    "UsageError",
    "member",
]


class AccuracyError(PatchCompileError):
    """Two results that must agree do not: exit code 3."""

    exit_code = 3


class SpeedError(PatchCompileError):
    """A speed that was asked for cannot be reached: exit code 4."""

    exit_code = 4


class InvariantError(Exception):
    """A rule of the packed format was broken by our own code: never the user's mistake, keeps its traceback."""
