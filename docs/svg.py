"""Parts of a picture as SVG: the colours of the report's page, axes with round ticks, lines, marks with tooltips, and labels
that cover little."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from patch_compile.report.page.write import asset

if TYPE_CHECKING:
    from markupsafe import Markup

_VARIABLE = re.compile(r"--([\w-]+):\s*([^;]+);")
Point: TypeAlias = tuple[float, float]
Ticks: TypeAlias = Sequence[tuple[float, str]]
SIZE = 12  # of the font, in pixels
REACH = 9  # radius that a marker needs, in pixels
# Outlines around (0, 0) of equal weight to the eye, so that methods differ in print and to any colour vision.
MARKERS = {
    "circle": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0Z",
    "square": "M-5.4 -5.4h10.8v10.8h-10.8Z",
    "triangle": "M0 -7L6.6 5H-6.6Z",
    "diamond": "M0 -7.4L7.4 0L0 7.4L-7.4 0Z",
}
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_ASCENT, _HEIGHT = 11, 14  # of a line of text
# Costs of a label: it hides something, a line crosses it, it needs a leader.
_HIDES, _CROSSES, _LEADS = 8, 2, 1
_ROW = 15  # between candidate positions above each other
# Offset of the middle of a label from its marker, the best first: (side, down); side 0 is centred.
_PLACES = [
    (1, 0), (1, -9), (-1, 0), (-1, -9), (1, 9), (-1, 9), (0, -17), (0, 17),
    *((side, way * (9 + _ROW * row)) for row in range(1, 8) for side in (1, -1) for way in (-1, 1)),
]  # fmt: skip
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


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """Returns an element; texts are escaped. Attributes: `text_anchor` stands for text-anchor, `class_` for class."""
    from markupsafe import Markup

    pairs = (
        (key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None
    )
    spelled = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in pairs)
    return Markup("<{}{}>{}</{}>\n").format(name, spelled, Markup("").join(content), name)  # type: ignore[arg-type]


def frame(inside: Box, x_ticks: Ticks, y_ticks: Ticks) -> Markup:
    """Returns the axes of a chart, with a line of the grid for each tick of y."""
    left, right, base = inside.left, inside.right, inside.bottom
    lines = [tag("line", x1=left, x2=right, y1=y, y2=y) for y, _ in y_ticks]
    beside = [tag("text", words, x=left - 8, y=y, dy=".35em") for y, words in y_ticks]
    under = [tag("text", words, x=x, y=base + 18) for x, words in x_ticks]
    axis = tag("line", class_="axis", x1=left, x2=right, y1=base, y2=base)
    return (
        tag("g", *lines, class_="grid")
        + tag("g", *beside, class_="ticks y")
        + tag("g", *under, class_="ticks x")
        + axis
    )


def polyline(points: Sequence[Point], class_: str, **attributes: object) -> Markup:
    """Returns lines from each point to the next."""
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    return tag("path", class_=class_, d=path, **attributes)


def mark(outline: str, class_: str, at: Point, words: str = "") -> Markup:
    """Returns a mark. outline: of `MARKERS`; words: text shown when the pointer is on it."""
    title = [tag("title", words)] if words else []
    return tag(
        "path", *title, class_=f"mark {class_}", transform=f"translate({at[0]:g} {at[1]:g})", d=outline
    )


def named(labels: Iterable[Label]) -> Markup:
    """Returns labels; a label that lies away from its mark has a line to it."""
    parts = []
    for label in labels:
        if label.leader:
            (x1, y1), (x2, y2) = label.leader
            parts.append(tag("line", class_="leader", x1=x1, y1=y1, x2=round(x2, 1), y2=round(y2, 1)))
        parts.append(tag("text", label.text, class_="called", x=label.x, y=label.y))
    return tag("g", *parts)


@dataclass(frozen=True)
class Scale:
    """Maps values low … high to pixels first … last."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value, to a tenth."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.first + (self.last - self.first) * share, 1)


def ticks_within(low: float, high: float) -> list[float]:
    """Returns the multiples of 1, 2, 2.5 or 5 times a power of ten that lie in low … high."""
    step = _step(high - low, 5)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _step(span: float, about: int) -> float:
    power = 10.0 ** math.floor(math.log10(span / about))
    return next(one * power for one in _STEPS if one * power * about >= span * 0.999)


def _digits(step: float) -> int:
    return next(digits for digits in range(20) if abs(round(step, digits) - step) < 1e-6 * step)


def linear_axis(values: Sequence[float], margin: float, first: float, last: float) -> tuple[Scale, Ticks]:
    """Returns an axis with a margin on both sides of the values, without ticks below 0 if no value is negative."""
    low, high = min(values), max(values)
    wider = margin * (high - low or abs(high) or 1.0)
    axis = Scale(low - wider, high + wider, first, last)
    ticks = ticks_within(axis.low if low < 0 else max(axis.low, 0.0), axis.high)
    digits = _digits(ticks[1] - ticks[0])
    return axis, [(axis(value), f"{value:,.{digits}f}".replace("-", "−")) for value in ticks]


def text_width(text: str, size: float) -> float:
    """Returns an upper estimate of the width of text in pixels, before any browser chooses a font. size: of the font."""
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


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, point: Point, reach: float) -> Box:
        """Returns the square around a point. reach: half of its side."""
        x, y = point
        return cls(x - reach, y - reach, x + reach, y + reach)

    def overlaps(self, other: Box) -> bool:
        """Returns True if the two share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: Box) -> bool:
        """Returns True if the other lies inside."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom

    def is_crossed(self, first: Point, last: Point) -> bool:
        """Returns True if the segment passes through the inside, by Liang and Barsky's clipping."""
        enter, leave = 0.0, 1.0
        for axis, low, high in ((0, self.left, self.right), (1, self.top, self.bottom)):
            start, step = first[axis], last[axis] - first[axis]
            if not step:
                if not low < start < high:
                    return False
                continue
            near, far = sorted(((low - start) / step, (high - start) / step))
            enter, leave = max(enter, near), min(leave, far)
        return enter < leave


@dataclass(frozen=True)
class Label:
    """A placed label. x, y: where its baseline begins; leader: a line to its marker, if the marker is farther away."""

    text: str
    x: float
    y: float
    box: Box
    leader: tuple[Point, Point] | None


def place_labels(
    spots: Sequence[tuple[str, Point]], inside: Box, lines: Sequence[Sequence[Point]]
) -> list[Label]:
    """Label each spot at the candidate position where its label covers least.

    spots: label and marker in pixels. It avoids other labels, markers, the drawn lines and the edge of `inside`.
    """
    markers = [Box.around(point, REACH) for _, point in spots]
    segments = [pair for line in lines for pair in pairwise(line)]
    labels: list[Label] = []

    def cost(label: Label) -> int:
        placed = [other.box for other in labels]
        hidden = sum(map(label.box.overlaps, [*markers, *placed])) + (not inside.holds(label.box))
        crossed = sum(label.box.is_crossed(*one) for one in segments)
        if label.leader:
            start = Box.around(label.leader[0], 0)
            # A leader can't avoid the markers around its start.
            away = [box for box in markers if not box.overlaps(start)]
            crossed += sum(box.is_crossed(*label.leader) for box in [*away, *placed])
        return _HIDES * hidden + _CROSSES * crossed + _LEADS * bool(label.leader)

    for text, point in spots:
        labels.append(min(_candidates(text, point), key=cost))
        segments += [leader] if (leader := labels[-1].leader) else []
    return labels


def _candidates(text: str, point: Point) -> Iterator[Label]:
    (x, y), width = point, text_width(text, SIZE)
    for side, down in _PLACES:
        left = x + (REACH + 1 if side > 0 else -REACH - 1 - width if side < 0 else -width / 2)
        top = y + down - _HEIGHT / 2
        box = Box(left, top, left + width, top + _HEIGHT)
        corner = (box.left if side > 0 else box.right, box.bottom if down < 0 else box.top)
        far = abs(down) > REACH + _HEIGHT  # there, a reader needs a line
        yield Label(
            text, round(left, 1), round(top + _ASCENT, 1), box, ((x, y), corner) if side and far else None
        )
