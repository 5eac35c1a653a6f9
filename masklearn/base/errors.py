"""Errors that the user sees without a traceback."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

from masklearn.base.printable import shown

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


@contextmanager
def reading(
    name: object, fix: str = "Fetch the file again.", *, what: str = "cannot be read"
) -> Iterator[None]:
    """Raise an error about a user's file, which a library, a check or the operating system raises, as MaskLearnError.

    name: of the file, before `what` in the error's first sentence. Only steps that read or parse the file belong into the
    block: an error of any other step would look like a fault of the file.
    """
    try:
        yield
    except (MaskLearnError, MemoryError):
        raise
    except Exception as error:
        raise MaskLearnError(f"{name} {what}", said(error), fix) from error


def said(error: Exception) -> str:
    """Returns the message of a library or of the operating system as a sentence. Of several faults it tells the first."""
    from pydantic import ValidationError

    text = " ".join(str(error).split())
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place, given = ".".join(map(shown, first["loc"])), first["input"]
        value = "" if given is None or isinstance(given, dict | BaseException) else f" = {shown(given)}"
        why = re.sub(r"^Value error, | or an instance of \w+$", "", first["msg"])
        text = f"{place}{value}: {why}" if place else why
    elif isinstance(error, OSError):
        text = error.strerror or text
    elif isinstance(error, KeyError):
        text = f"It has no {text}"
    return f"{(text or type(error).__name__).rstrip('.')}."
