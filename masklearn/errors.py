"""The errors that a user sees without a traceback."""

from enum import StrEnum
from typing import TypeVar

__all__ = ["HOW_TO_CORRECT", "PatchCompileError", "UsageError", "member"]

HOW_TO_CORRECT = "Correct it: --help says what each option takes."
_Name = TypeVar("_Name", bound=StrEnum)


class PatchCompileError(Exception):
    """A mistake in the input or a lack of the machine: what happened, why, and how to fix it.

    what: one sentence without a final period; why, fix: whole sentences, or the words of another program as they are.
    The command line prints the three parts without a traceback and exits with `exit_code`. The class lives here because
    `masklearn` is the lower package; `patch_compile` raises the same one.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(". ".join(part.rstrip(".") for part in (what, why, fix) if part))


class UsageError(PatchCompileError):
    """A setting that is wrong whatever the files and the machine are: misspelled, out of range, or against another one."""

    exit_code = 2


def member(names: type[_Name], given: str, setting: str) -> _Name:
    """The member of a set of names that a setting gives. Raises UsageError for another name."""
    try:
        return names(given)
    except ValueError:
        why = f"It is one of {', '.join(names)}."
        raise UsageError(f"The setting {setting} = {given} is not valid", why, HOW_TO_CORRECT) from None
