"""Names in the picture cover neither each other nor a marker nor a line."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch_compile.report.page.labels import REACH, Box, place_labels
from patch_compile.report.pareto import Spot, beaten_by

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
def test_few_names_never_cover_a_marker_or_each_other(found: list[tuple[float, float]]) -> None:
    labels = place_labels([(f"r{i}", point) for i, point in enumerate(found)], INSIDE, [])
    boxes = [label.box for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(Box.around(point, REACH)) for box in boxes for point in found)
    assert all(INSIDE.holds(box) for box in boxes)


def test_a_name_that_is_not_beside_its_marker_has_a_line_to_it() -> None:
    labels = place_labels([(f"r{i}", (300.0, 200.0)) for i in range(12)], INSIDE, [])
    assert labels[0].leader is None
    leaders = [label.leader for label in labels if label.leader]
    assert leaders and all(start == (300.0, 200.0) for start, _ in leaders)


def test_a_leader_passes_no_other_marker() -> None:
    """Lines cross the places beside the marker, so its name goes above, or below if a marker is in the way."""
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
def test_a_box_is_crossed_by_what_passes_through_its_inside(first, last, crossed) -> None:
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
