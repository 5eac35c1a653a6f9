"""Declares a setting once, in the annotation of a class: its help, limits and check.

    class LearnOptions:
        windows: Annotated[int, Option("Number of calibration windows.", ge=1)] = 32

Such a class imports nothing heavy, so that `--help` is quick. A model of `masklearn.base.settings.Settings` that inherits it
has these fields and checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a value. finite: neither infinite nor NaN; min_length: of a tuple."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    finite: bool = False
    min_length: int | None = None

    __is_annotated_types_grouped_metadata__: ClassVar[Literal[True]] = True

    def __iter__(self) -> Iterator[Any]:
        """Yields the constraints for pydantic, which calls this because of the attribute above."""
        from pydantic import Field

        limits: dict[str, Any] = {"ge": self.ge, "gt": self.gt, "le": self.le, "min_length": self.min_length}
        limits |= {"allow_inf_nan": False} if self.finite else {}
        yield Field(**{name: limit for name, limit in limits.items() if limit is not None})


@dataclass(frozen=True)
class Option(Bounds):
    """Description of a setting, without its name, type and default.

    help: its effect, for users; other settings are named as `ratio`, which a command line prints as a flag; metavar: a
    word for its value; group: heading that it stands under; unset: words for a default that does not explain itself;
    choices: the valid texts; parse: converts text to a value, if the type is not text; check: the last check of a
    value, which it returns; spell: writes a value as text.
    """

    help: str
    metavar: str | None = None
    _: KW_ONLY
    group: str = ""
    unset: str = ""
    choices: Collection[str] = ()
    parse: Callable[[Any], Any] | None = None
    check: Callable[[Any], Any] | None = None
    spell: Callable[[Any], str] | None = None

    def text(self, default: str = "") -> str:
        """Returns the help text, followed in brackets by the words for the default or the default."""
        said = self.unset or default
        return f"{self.help} [{said}]" if said else self.help

    def __iter__(self) -> Iterator[Any]:
        """Yields the constraints for pydantic."""
        from pydantic import AfterValidator, BeforeValidator

        yield from super().__iter__()
        if self.parse is not None:
            yield BeforeValidator(_unless_none(self.parse))
        if self.check is not None:
            yield AfterValidator(_unless_none(self.check))


def listed(value: Any) -> Any:
    """Returns the parts of a text with commas, and any other value unchanged."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _unless_none(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else function(value)
