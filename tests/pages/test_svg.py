"""Axes, texts and labels of charts: ticks are round, and names cover neither each other nor a mark."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.svg import REACH, Box, linear_axis, lines_within, place_labels, text_width, themes, ticks_within
from tests.report.page.contrast import contrast


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4))
def test_ticks_lie_within_their_ends(low: float, span: float) -> None:
    ticks = ticks_within(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    axis, words = linear_axis([low, low + span], 0.0, 0, 100)
    said = [float(text.replace("−", "-").replace(",", "")) for _, text in words]
    assert [axis(value) for value in said] == pytest.approx([pixel for pixel, _ in words], abs=0.11)


@given(st.lists(st.tuples(st.floats(80, 680), st.floats(40, 340)), min_size=1, max_size=4))
def test_names_cover_nothing(points: list[tuple[float, float]]) -> None:
    inside = Box(56, 20, 700, 360)
    labels = place_labels([(f"r{i}", point) for i, point in enumerate(points)], inside, [])
    boxes = [label.box for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(Box.around(point, REACH)) for box in boxes for point in points)
    assert all(inside.holds(box) for box in boxes)


def test_colours_have_contrast_everywhere() -> None:
    assert set(themes()) == {"screen", "(prefers-color-scheme: dark)", "print"}
    for theme in themes().values():
        assert contrast(theme["accent"], theme["paper"]) >= 3
        assert all(contrast(theme[ink], theme["paper"]) >= 4.5 for ink in ("ink", "muted"))


def test_text_is_broken_where_it_fits() -> None:
    lines = lines_within("one two three four five\nsix", 12, 80)
    assert lines[-1] == "six" and " ".join(lines) == "one two three four five six"
    assert all(text_width(line, 12) <= 80 for line in lines)
    assert lines_within("averyverylongword", 12, 10) == ["averyverylongword"]
