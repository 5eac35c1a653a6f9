"""Marks of the picture lie inside its axes, and methods look different."""

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from patch_compile.artifacts.compare import Against
from patch_compile.report.curve import curve
from tests.artifacts.compared import compared

SVG = "{http://www.w3.org/2000/svg}"


class Picture:
    """A drawn comparison: marks by the name that their title begins with, ticks, and names."""

    def __init__(
        self, losses: Any, values: Any, dense: float, against: Against = Against.SPEED, methods: int = 1
    ) -> None:
        names = [f"method {i}" for i in range(methods)]
        self.root = ElementTree.fromstring(curve(compared(losses, values, dense, against, names)))
        paths = [path for path in self.root.iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]
        self.titles = [str(path.findtext(f"{SVG}title")) for path in paths]
        self.at = {
            title.split(":")[0]: self.place(path) for title, path in zip(self.titles, paths, strict=True)
        }
        self.looks = [(path.get("d"), path.get("class")) for path in paths[1:]]
        axis = self.root.find(f"{SVG}line[@class='axis']")
        self.left, self.right, self.base = (float(axis.get(key)) for key in ("x1", "x2", "y1"))
        self.x_ticks, self.y_ticks = (self.ticks(kind) for kind in "xy")

    @staticmethod
    def place(path: ElementTree.Element) -> tuple[float, ...]:
        return tuple(float(part) for part in re.findall(r"-?[\d.]+", path.get("transform", "")))

    def ticks(self, kind: str) -> dict[str, float]:
        group = self.root.find(f"{SVG}g[@class='ticks {kind}']")
        return {str(one.text): float(one.get(kind)) for one in group}

    @property
    def names(self) -> list[str]:
        return [str(one.text) for one in self.root.iter(f"{SVG}text") if "called" in one.get("class", "")]


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
    picture = Picture(losses, values, dense, against)
    assert len(picture.at) == 4
    for x, y in picture.at.values():
        assert picture.left + 9 < x < picture.right - 9 and 9 < y < picture.base - 9
    assert all(picture.left <= x <= picture.right for x in picture.x_ticks.values())
    assert len(picture.x_ticks) >= 2 <= len(picture.y_ticks)


def test_an_overflowed_perplexity_lies_at_the_upper_edge() -> None:
    picture = Picture([11.0, math.inf, 13.0], [1.1, 1.3, 1.5], 10.0)
    assert picture.names == ["dense", "r0", "r1 (not finite)", "r2"]
    assert min(picture.at, key=lambda name: picture.at[name][1]) == "r1"
    assert any(title.startswith("r1: perplexity not finite") for title in picture.titles)


def test_better_is_to_the_right() -> None:
    picture = Picture([11.0, 14.0, 13.0], [1.1, 1.3, 1.5], 10.0)
    line = picture.root.findall(f"{SVG}path[@class='pareto']")[0].get("d")
    joined = [tuple(map(float, point.split())) for point in str(line)[1:].split("L")]
    assert joined == [picture.at["dense"], picture.at["r0"], picture.at["r2"]]
    fewer = Picture([11.0, 14.0, 13.0], [0.9, 0.7, 0.5], 10.0, Against.BYTES)
    assert fewer.at["dense"][0] == min(x for x, _ in fewer.at.values())


def test_methods_differ_in_shape_and_colour() -> None:
    picture = Picture([11.0 + i for i in range(12)], [1.1 + i for i in range(12)], 10.0, methods=12)
    assert len(set(picture.looks)) == 12
    assert len({outline for outline, _ in picture.looks}) == 6  # in print too
    assert picture.names == ["dense", *(f"r{i}" for i in range(12))]
    legend = [
        one
        for group in picture.root.findall(f"{SVG}g[@class='legend']")
        for one in group.findall(f"{SVG}text")
    ]
    assert len({one.get("y") for one in legend}) > 1 and all(float(one.get("x")) < 700 for one in legend)
