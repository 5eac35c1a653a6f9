"""Names in the picture cover neither each other nor a marker."""

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from patch_compile.compare.labels import label_spots
from patch_compile.compare.pareto import Spot, beaten_by


@pytest.mark.parametrize("step", [0.02, 0.2], ids=["crowded", "roomy"])
def test_no_name_covers_another_or_leaves_the_picture(step):
    figure = Figure(figsize=(7.4, 5.0), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    spots = [(f"smollm2-ratio-{i}", (0.3 + step * i, 10 + step * i)) for i in range(6)]
    axes.plot(*zip(*(spot for _, spot in spots), strict=True), "o")
    axes.set_xlim(0, 1.6)
    axes.set_ylim(9.5, 11.8)
    label_spots(figure, axes, spots)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [one for one in axes.get_children() if isinstance(one, Annotation)]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert [text.get_text() for text in texts] == [name for name, _ in spots]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    inside = axes.get_window_extent(renderer)
    assert all(
        inside.x0 <= b.x0 and b.x1 <= inside.x1 and inside.y0 <= b.y0 and b.y1 <= inside.y1 for b in boxes
    )


def test_equal_builds_beat_neither_one_another():
    spots = [
        Spot("a", 0.4, 12.0),
        Spot("b", 0.4, 12.0),
        Spot("c", 0.4, 13.0),
        Spot("d", 0.3, 12.0),
        Spot("e", 0.5, 15.0),
    ]
    assert beaten_by(spots) == {"a": None, "b": None, "c": "a", "d": "a", "e": None}
