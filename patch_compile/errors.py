"""Errors of the compiler; `PatchCompileError` is shared with `masklearn`."""

from masklearn.errors import PatchCompileError

__all__ = ["AccuracyError", "InvariantError", "PatchCompileError", "SpeedError"]


class AccuracyError(PatchCompileError):
    """A comparison that must agree did not: exit code 3 (design: exit codes)."""

    exit_code = 3


class SpeedError(PatchCompileError):
    """A speed that was asked for cannot be reached: exit code 4."""

    exit_code = 4


class InvariantError(Exception):
    """A rule of the packed format was broken by our own code: never the user's mistake, keeps its traceback."""
