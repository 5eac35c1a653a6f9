"""Errors of the compiler; `PatchCompileError` and `UsageError` are shared with `masklearn`."""

from masklearn.errors import PatchCompileError, UsageError

__all__ = ["AccuracyError", "InvariantError", "PatchCompileError", "SpeedError", "UsageError"]


class AccuracyError(PatchCompileError):
    """Two results that must agree do not: exit code 3."""

    exit_code = 3


class SpeedError(PatchCompileError):
    """A speed that was asked for cannot be reached: exit code 4."""

    exit_code = 4


class InvariantError(Exception):
    """A rule of the packed format was broken by our own code: never the user's mistake, keeps its traceback."""
