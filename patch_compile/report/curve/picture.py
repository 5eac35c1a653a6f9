"""Draws the quality of each build against an axis, as SVG."""

from __future__ import annotations

from pathlib import Path

from masklearn.base.durable import whole_file
from patch_compile.artifacts.compare import CompareReport
from patch_compile.report.curve.curve import curve
from patch_compile.report.page.rendering import asset, environment, themed

__all__ = ["draw"]

_PACKAGE = "patch_compile.report.curve"


def draw(report: CompareReport, file: Path) -> None:
    """Write the picture. The file is renamed into place when it is complete.

    It follows the viewer's light or dark scheme. Equal builds give equal bytes.
    """
    from markupsafe import Markup

    style = Markup(themed(asset("chart.css") + asset("curve.css", _PACKAGE)))
    template = environment(_PACKAGE).get_template("curve.svg")
    with whole_file(file) as part:
        part.write_text(template.render(style=style, curve=curve(report)), encoding="utf-8")
