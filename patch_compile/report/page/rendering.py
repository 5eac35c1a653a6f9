"""Renders the templates of the page, and of pictures that share its charts and its colours."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from patch_compile.report.page.number_format import FILTERS

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["asset", "environment", "themed", "themes"]

_PACKAGE = "patch_compile.report.page"
_VARIABLE = re.compile(r"--([\w-]+):\s*([^;]+);")


def environment(*packages: str) -> Environment:
    """Returns the environment of the page's templates, and of those of other packages that build on them."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, _PACKAGE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(FILTERS)
    return found


def asset(name: str, package: str = _PACKAGE) -> str:
    """Returns the text of a stylesheet or script among the templates of a package."""
    return (files(package) / "templates" / name).read_text("utf-8")


def themes() -> dict[str, dict[str, str]]:
    """Returns the variables of theme.css by medium: "screen" is light, the others are its media queries."""
    screen, *rest = re.split(r"@media ([^{]+?) \{", asset("theme.css"))
    blocks = {"screen": screen} | dict(zip(rest[::2], rest[1::2], strict=True))
    light = dict(_VARIABLE.findall(screen))
    return {medium: light | dict(_VARIABLE.findall(block)) for medium, block in blocks.items()}


def themed(rules: str) -> str:
    """Returns rules for each medium with values in place of variables.

    A picture is also opened by viewers that know no `var()`; those that know no media queries show it light.
    """
    light, *others = [
        (medium, re.sub(r"var\(--([\w-]+)\)", lambda match, now=values: now[match[1]], rules))  # type: ignore[misc]
        for medium, values in themes().items()
    ]
    return "\n".join([light[1], *(f"@media {medium} {{\n{text}\n}}" for medium, text in others)])
