"""Errors that the user sees without a traceback."""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

HOW_TO_CORRECT = "Correct it: --help says what each option takes."
_Name = TypeVar("_Name", bound=StrEnum)


class MaskLearnError(Exception):
    """Error in the user's input or environment: what happened, why, and how to fix it.

    what: one sentence without a final period; why, fix: whole sentences, or the unchanged message of another program. The
    command line prints them without a traceback, and exits with `exit_code`. Settings are named in backticks, such as
    `calib`, which the command line shows as options. `patch_compile` raises this class too, under the name
    `PatchCompileError`.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(". ".join(part.rstrip(".") for part in (what, why, fix) if part))

    def respell(self, spelling: Callable[[str], str]) -> None:
        """Spell the settings in the sentences anew, for a reader who knows them by other names."""
        what, why, fix = map(spelling, (self.what, self.why, self.fix))
        MaskLearnError.__init__(self, what, why, fix)


class UsageError(MaskLearnError):
    """Error in a setting: misspelled, out of range, against another setting, or a pattern that matches no linear."""

    exit_code = 2


def member(names: type[_Name], given: str, setting: str) -> _Name:
    """Returns the member of `names` that a setting names; setting: its name. Raises UsageError for an unknown name."""
    try:
        return names(given)
    except ValueError:
        why = f"It is one of {', '.join(names)}."
        raise UsageError(f"The setting {setting} = {given} is not valid", why, HOW_TO_CORRECT) from None
