"""Finds the templates of the page."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from patch_compile.report.number_format import kind_class, percent

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "patch_compile.report.page"


def environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=lambda name: name is None or not name.endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(percent=percent, kind_class=kind_class)
    return templates


def asset(name: str) -> str:
    return (files(_PACKAGE) / "templates" / name).read_text("utf-8")
