"""Marks of the picture lie inside its axes, and methods look different."""

import itertools
import math
from typing import Any

import pytest

from patch_compile.artifacts.compare import Against
from patch_compile.report.curve.curve import curve
from tests.artifacts.compared import compared


def laid_out(
    losses: list[float],
    values: list[float],
    dense: float,
    against: Against = Against.SPEED,
    methods: int = 1,
) -> Any:
    names = [f"method {i}" for i in range(methods)]
    return curve(compared(losses, values, dense, against, names))


@pytest.mark.parametrize("against", [Against.SPEED, Against.BYTES])
@pytest.mark.parametrize(("losses", "values", "dense"), [
    ([11.0, 14.0, 13.0], [1.1, 1.3, 1.5], 10.0),
    ([11.0, 140.0, 1300.0], [0.9, 0.7, 1e4], 10.0),  # logarithmic
    ([0.01, 0.02, 0.02], [1.1, 1.2, 1.2], 0.0),
    ([10.0, 10.0, 10.0], [1.0, 1.0, 1.0], 10.0),  # all equal
    ([10.0, 10.000001, 10.0], [1.0, 1.000001, 1.0], 10.0),
    ([11.0, math.inf, 13.0], [1.1, 1.3, 1.5], 10.0),
    ([math.inf, math.inf, math.inf], [1.1, 1.3, 1.5], math.inf),
], ids=["perplexity", "logarithmic", "error", "equal", "almost-equal", "overflow", "all-overflow"])  # fmt: skip
def test_marks_and_ticks_lie_inside_the_axes(losses, values, dense, against) -> None:
    picture = laid_out(losses, values, dense, against)
    left, right, top, base = (picture[key] for key in ("left", "right", "top", "base"))
    assert 0 < left < right < picture["size"][0] and 0 < top < base < picture["size"][1]
    marks = [*picture["marks"], picture["star"]]
    assert len(marks) == 4
    assert all(left + 9 < mark["x"] < right - 9 and top + 9 < mark["y"] < base - 9 for mark in marks)
    assert all(left <= x <= right for x, _ in picture["x_ticks"]) and len(picture["x_ticks"]) >= 2
    assert all(top <= y <= base for y, _ in picture["y_ticks"]) and len(picture["y_ticks"]) >= 2
    for ticks in (picture["x_ticks"], picture["y_ticks"]):
        assert len({words for _, words in ticks}) == len(ticks)


def test_a_perplexity_that_overflowed_says_so_at_the_upper_edge() -> None:
    picture = laid_out([11.0, math.inf, 13.0], [1.1, 1.3, 1.5], 10.0)
    assert [label.text for label in picture["labels"]] == ["dense", "r0", "r1 (not finite)", "r2"]
    highest = min(picture["marks"], key=lambda mark: mark["y"])
    assert highest["words"].startswith("r1: perplexity not finite")


def test_better_is_to_the_right_and_the_line_joins_the_pareto_points() -> None:
    picture = laid_out([11.0, 14.0, 13.0], [1.1, 1.3, 1.5], 10.0)
    at = {mark["words"].split(":")[0]: (mark["x"], mark["y"]) for mark in picture["marks"]}
    assert picture["pareto"] == [(picture["star"]["x"], picture["star"]["y"]), at["r0"], at["r2"]]
    fewer = laid_out([11.0, 14.0, 13.0], [0.9, 0.7, 0.5], 10.0, Against.BYTES)
    assert fewer["star"]["x"] < min(mark["x"] for mark in fewer["marks"])
    assert [words for _, words in fewer["x_ticks"]] == ["0.6", "0.8", "1.0"]


def test_methods_differ_in_shape_and_more_of_them_in_colour_too() -> None:
    picture = laid_out([11.0 + i for i in range(12)], [1.1 + i for i in range(12)], 10.0, methods=12)
    looks = [(mark["outline"], mark["colour"]) for mark in picture["marks"]]
    assert len(set(looks)) == 12
    assert len({outline for outline, _ in looks[:6]}) == 6  # in print too


def test_names_and_legend_overlap_nothing_and_end_in_the_picture() -> None:
    picture = laid_out([11.0 + i for i in range(12)], [1.1 + i for i in range(12)], 10.0, methods=12)
    boxes = [label.box for label in picture["labels"]]
    assert [label.text for label in picture["labels"]] == ["dense", *(f"r{i}" for i in range(12))]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    rows: dict[float, list[float]] = {}
    for entry in picture["legend"]:
        rows.setdefault(entry["y"], []).append(entry["x"])
    assert len(rows) > 1 and all(xs == sorted(xs) and xs[-1] < 720 for xs in rows.values())
    assert max(rows) < picture["above"][1] - 12 < picture["top"]
