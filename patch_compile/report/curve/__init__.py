"""Draws a comparison of builds as a picture."""

from patch_compile.report.curve.picture import draw

__all__ = ["draw"]
