"""Places labels beside markers so that they cover as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from patch_compile.report.page.text_width import text_width

__all__ = ["REACH", "SIZE", "Box", "Label", "Point", "place_labels"]

Point = tuple[float, float]
SIZE = 12  # of the font, in pixels
REACH = 9  # radius that a marker needs, in pixels
_ASCENT, _HEIGHT = 11, 14  # of a line of text
# Costs of a label: it hides something, a line crosses it, it needs a leader.
_HIDES, _CROSSES, _LEADS = 8, 2, 1
_ROW = 15  # between candidate positions above each other
# Offset of the middle of a label from its marker, the best first: (side, down); side 0 is centred.
_PLACES = [
    (1, 0), (1, -9), (-1, 0), (-1, -9), (1, 9), (-1, 9), (0, -17), (0, 17),
    *((side, way * (9 + _ROW * row)) for row in range(1, 8) for side in (1, -1) for way in (-1, 1)),
]  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, point: Point, reach: float) -> Box:
        """Returns the square around a point."""
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
    """A placed label. x, y: where its baseline begins; leader: a line to its marker, if it is not beside it."""

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
    for text, point in spots:
        best = min(
            _candidates(text, point), key=lambda label: _cost(label, markers, labels, segments, inside)
        )
        labels.append(best)
        segments += [best.leader] if best.leader else []
    return labels


def _cost(
    label: Label,
    markers: Sequence[Box],
    labels: Sequence[Label],
    segments: Sequence[tuple[Point, Point]],
    inside: Box,
) -> int:
    """Returns the cost of a candidate beside the labels placed so far. It overlaps its own marker nowhere."""
    placed = [other.box for other in labels]
    hidden = sum(map(label.box.overlaps, [*markers, *placed])) + (not inside.holds(label.box))
    crossed = sum(label.box.is_crossed(*one) for one in segments)
    if label.leader:
        start = Box.around(label.leader[0], 0)
        # A leader can't avoid the markers around its start.
        away = [box for box in markers if not box.overlaps(start)]
        crossed += sum(box.is_crossed(*label.leader) for box in [*away, *placed])
    return _HIDES * hidden + _CROSSES * crossed + _LEADS * bool(label.leader)


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
