"""Draws the quality of each build against an axis, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from patch_compile.compare.axis import Axis
from patch_compile.compare.builds import Build
from patch_compile.compare.curve import curve
from patch_compile.report.page.rendering import asset, environment, themed

__all__ = ["draw"]

_PACKAGE = "patch_compile.compare"


def draw(builds: Sequence[Build], axis: Axis, beaten: Mapping[str, str | None], file: Path) -> None:
    """Write the picture. beaten: result of `beaten_by`. The file is renamed into place when it is complete.

    It follows the viewer's light or dark scheme. Equal builds give equal bytes.
    """
    from markupsafe import Markup

    style = Markup(themed(asset("chart.css") + asset("curve.css", _PACKAGE)))
    template = environment(_PACKAGE).get_template("curve.svg")
    part = file.with_name(f".{file.name}.part")
    part.write_text(template.render(style=style, curve=curve(builds, axis, beaten)), encoding="utf-8")
    part.replace(file)
