"""Places labels beside markers so that they cover as little as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

__all__ = ["label_spots"]

_INK, _SIZE = "#222222", 8.5
_MARKER = 7  # radius of a marker, in points
_HIDES, _CROSSES = 4, 1  # cost of a label that hides something, and of one that a line crosses
# Candidate positions of a label, in points from its marker, the best first: (x, y, horizontal, vertical).
_PLACES = [
    (side * 8, up * high, "left" if side > 0 else "right", "bottom" if up > 0 else "top")
    for high in (6, 20, 34)
    for side in (1, -1)
    for up in (1, -1)
] + [(0, up * 10, "center", "bottom" if up > 0 else "top") for up in (1, -1)]


def label_spots(figure: Figure, axes: Axes, spots: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Label each spot at the candidate position where its label covers least.

    spots: label and position in data coordinates. It avoids other labels, markers, the legend, the drawn lines and the
    edge.
    """
    renderer = _laid_out(figure)
    points = axes.transData.transform([spot for _, spot in spots])
    taken, lines = [_around(x, y, figure.dpi) for x, y in points], [_line(line) for line in axes.get_lines()]
    if legend := axes.get_legend():
        taken.append(legend.get_window_extent(renderer))
    inside = axes.get_window_extent(renderer)
    for name, spot in spots:
        tried: list[tuple[int, Annotation, Bbox]] = []
        for place in _PLACES:
            text = _write(axes, name, spot, place)
            box = text.get_window_extent(renderer)
            hidden = sum(box.overlaps(other) for other in taken) + (not _holds(inside, box))
            crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
            tried.append((_HIDES * hidden + _CROSSES * crossed, text, box))
            text.remove()
        _, text, box = min(tried, key=lambda one: one[0])
        axes.add_artist(text)
        taken.append(box)


def _laid_out(figure: Figure) -> Any:
    """Draw the figure once, since positions are known only then, and return the renderer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def _around(x: float, y: float, dpi: float) -> Bbox:
    from matplotlib.transforms import Bbox

    reach = _MARKER * dpi / 72
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _line(line: Any) -> Path:
    """Returns a line of the axes in display coordinates."""
    return line.get_transform().transform_path(line.get_path())  # type: ignore[no-any-return]


def _holds(outer: Bbox, inner: Bbox) -> bool:
    return bool(
        outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1
    )


def _write(axes: Axes, name: str, spot: tuple[float, float], place: tuple[int, int, str, str]) -> Annotation:
    from matplotlib.patheffects import withStroke

    x, y, horizontal, vertical = place
    halo = [withStroke(linewidth=2.5, foreground="white")]
    return axes.annotate(
        name, spot, (x, y), textcoords="offset points", ha=horizontal, va=vertical, color=_INK, fontsize=_SIZE,
        path_effects=halo, zorder=4,
    )  # fmt: skip
