"""Estimates the width of text in charts, which is laid out before any browser chooses a font."""

from __future__ import annotations

__all__ = ["lines_within", "text_width"]

# Advance widths in em of DejaVu Sans, the widest font that the page may meet: in others, text is narrower.
_WIDTHS = {
    char: width
    for width, chars in (
        (0.30, "ijlIJ'"),
        (0.36, " ,./:;\\|f-"),
        (0.42, "()[]tr!"),
        (0.55, '"*_`sz?c'),
        (0.60, "LFkvxy"),
        (0.64, "PTYaeo$0123456789ESbdghnpqu{}"),
        (0.70, "KABVXZCR"),
        (0.79, "UNHDG&OQ"),
        (0.84, "w#+<=>^~"),
    )
    for char in chars
}
_OTHER = 1.0  # M, W, m, %, @; no character of another script is wider in common fonts


def text_width(text: str, size: float) -> float:
    """Returns an upper estimate of the width of text in pixels. size: of the font, in pixels."""
    return size * sum(_WIDTHS.get(char, _OTHER) for char in text)


def lines_within(text: str, size: float, width: float) -> list[str]:
    """Returns the text in lines that fit the width, broken at its line feeds and at spaces."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".lstrip()
            if line and text_width(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines
