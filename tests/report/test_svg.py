"""Axes, texts and labels of charts: ticks are round, and names cover neither each other nor a mark nor a line."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch_compile.report.page.charts import Spot, beaten_by
from patch_compile.report.page.rendering import asset, themed, themes
from patch_compile.report.svg import (
    REACH,
    Box,
    Scale,
    decades,
    linear_axis,
    lines_within,
    percent_ticks,
    place_labels,
    round_ticks,
    tag,
    text_width,
    ticks_within,
)
from tests.report.page.contrast import contrast


@given(st.floats(1e-6, 1e6))
def test_ticks_reach_the_highest_value_and_are_few(high: float) -> None:
    ticks = round_ticks(high)
    assert ticks[0] == 0.0 and ticks[-1] >= high * 0.999
    assert 2 <= len(ticks) <= 6


@given(st.floats(1e-4, 1.0))
def test_words_of_ticks_are_their_values(high: float) -> None:
    ticks = round_ticks(high)
    words = percent_ticks(ticks, Scale(0.0, ticks[-1], 200, 0))
    assert [float(text.rstrip("%")) for _, text in words] == pytest.approx([100 * tick for tick in ticks])


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4))
def test_ticks_lie_within_their_ends(low: float, span: float) -> None:
    ticks = ticks_within(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    axis, words = linear_axis([low, low + span], 0.0, 0, 100)
    said = [float(text.replace("−", "-").replace(",", "")) for _, text in words]
    assert [axis(value) for value in said] == pytest.approx([pixel for pixel, _ in words], abs=0.11)


@given(st.floats(1e-12, 1e3), st.floats(1.01, 1e9))
def test_decades_lie_in_the_axis(low: float, ratio: float) -> None:
    ticks = list(decades(low, low * ratio))
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert len(ticks) <= 10
    assert ticks or ratio < 10


def test_an_axis_ends_where_it_should() -> None:
    axis = Scale(1e-9, 1e-7, 50, 250, log=True)
    assert [axis(value) for value in (1e-9, 1e-8, 1e-7)] == [50, 150, 250]
    assert Scale(3, 3, 0, 10)(3) == 0  # an axis of one value


INSIDE = Box(56, 20, 700, 360)
points = st.tuples(st.floats(80, 680), st.floats(40, 340))


@pytest.mark.parametrize("step", [4, 50], ids=["crowded", "roomy"])
def test_a_name_covers_nothing_and_stays_inside(step: int) -> None:
    spots = [(f"smollm2-ratio-{i}", (200.0 + 2 * step * i, 300.0 - step * i)) for i in range(6)]
    line = [point for _, point in spots]
    labels = place_labels(spots, INSIDE, [line])
    assert [label.text for label in labels] == [name for name, _ in spots]
    boxes = [label.box for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(Box.around(point, REACH)) for box in boxes for point in line)
    assert not any(box.is_crossed(a, b) for box in boxes for a, b in itertools.pairwise(line))
    assert all(INSIDE.holds(box) for box in boxes)


@given(st.lists(points, min_size=1, max_size=4))
def test_names_cover_nothing(found: list[tuple[float, float]]) -> None:
    labels = place_labels([(f"r{i}", point) for i, point in enumerate(found)], INSIDE, [])
    boxes = [label.box for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(Box.around(point, REACH)) for box in boxes for point in found)
    assert all(INSIDE.holds(box) for box in boxes)


def test_distant_names_have_lines() -> None:
    labels = place_labels([(f"r{i}", (300.0, 200.0)) for i in range(12)], INSIDE, [])
    assert labels[0].leader is None
    leaders = [label.leader for label in labels if label.leader]
    assert leaders and all(start == (300.0, 200.0) for start, _ in leaders)


def test_a_leader_passes_no_other_marker() -> None:
    """Lines cross the places left and right of the marker, so its name goes above, or below if a marker is in the way."""
    lines = [[(56.0, y), (700.0, y)] for y in (188.0, 200.0, 212.0)]
    free, _ = place_labels([("r0.3", (300.0, 200.0)), ("far", (600.0, 100.0))], INSIDE, lines)
    assert free.leader == ((300.0, 200.0), (310.0, 183.0))
    moved, _ = place_labels([("r0.3", (300.0, 200.0)), ("near", (296.0, 188.0))], INSIDE, lines)
    assert moved.leader == ((300.0, 200.0), (310.0, 217.0))


@pytest.mark.parametrize(("first", "last", "crossed"), [
    ((0, 5), (20, 5), True), ((12, 8), (18, 12), True), ((5, 0), (20, 15), True), ((0, 0), (20, 20), False),
    ((0, 0), (5, 5), False),
    ((0, 10), (20, 10), False), ((0, 15), (15, 30), False), ((10, 0), (10, 20), False), ((11, 0), (11, 20), True),
])  # fmt: skip
def test_boxes_are_crossed_by_inner_lines(first, last, crossed) -> None:
    assert Box(10, 0, 20, 10).is_crossed(first, last) is crossed


def test_equal_builds_beat_neither_one_another():
    spots = [
        Spot("a", 0.4, 12.0),
        Spot("b", 0.4, 12.0),
        Spot("c", 0.4, 13.0),
        Spot("d", 0.3, 12.0),
        Spot("e", 0.5, 15.0),
    ]
    assert beaten_by(spots) == {"a": None, "b": None, "c": "a", "d": "a", "e": None}


def test_chart_colours_have_contrast_everywhere() -> None:
    assert set(themes()) == {"screen", "(prefers-color-scheme: dark)", "print"}
    for theme in themes().values():
        assert contrast(theme["accent"], theme["paper"]) >= 3
        assert all(contrast(theme[ink], theme["paper"]) >= 4.5 for ink in ("ink", "muted"))


def test_rules_of_a_picture_have_no_variables() -> None:
    rules = themed(asset("chart.css"))
    assert "var(" not in rules
    assert all(theme["muted"] in rules for theme in themes().values())


def test_text_is_broken_where_it_fits() -> None:
    lines = lines_within("one two three four five\nsix", 12, 80)
    assert lines[-1] == "six" and " ".join(lines) == "one two three four five six"
    assert all(text_width(line, 12) <= 80 for line in lines)
    assert lines_within("averyverylongword", 12, 10) == ["averyverylongword"]


def test_texts_and_attributes_are_escaped() -> None:
    assert tag("text", "<a>", class_='"b"', x=1) == '<text class="&#34;b&#34;" x="1">&lt;a&gt;</text>\n'
