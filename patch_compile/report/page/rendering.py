"""Finds the templates of the page, and the colours that pictures share with it."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from patch_compile.report.number_format import kind_class, percent

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "patch_compile.report.page"
_VARIABLE = re.compile(r"--([\w-]+):\s*([^;]+);")


def environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=lambda name: name is None or not name.endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(percent=percent, kind_class=kind_class)
    return found


def asset(name: str) -> str:
    return (files(_PACKAGE) / "templates" / name).read_text("utf-8")


def themes() -> dict[str, dict[str, str]]:
    """Returns the variables of theme.css by medium: "screen" is light, the others are its media queries."""
    screen, *rest = re.split(r"@media ([^{]+?) \{", asset("theme.css"))
    blocks = {"screen": screen} | dict(zip(rest[::2], rest[1::2], strict=True))
    light = dict(_VARIABLE.findall(screen))
    return {medium: light | dict(_VARIABLE.findall(block)) for medium, block in blocks.items()}


def themed(rules: str) -> str:
    """Returns rules for each medium with values in place of variables.

    Viewers without `var()` open a picture too; viewers without media queries show it light.
    """
    light, *others = [
        (medium, re.sub(r"var\(--([\w-]+)\)", lambda match, now=values: now[match[1]], rules))  # type: ignore[misc]
        for medium, values in themes().items()
    ]
    return "\n".join([light[1], *(f"@media {medium} {{\n{text}\n}}" for medium, text in others)])
