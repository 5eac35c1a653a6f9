"""Charts of the page, read from their SVG: bars of scores, errors by depth, quality against size."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ScoreCounts
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.artifacts.verify_schema import BlockError
from patch_compile.report.page.charts import depth_chart, frontier, scores
from patch_compile.report.page.page_data import Sources
from patch_compile.report.section import Section
from patch_compile.report.svg import MARKERS
from tests.report.page.found import baselines, verified
from tests.report.page.outs import Out, llama_shapes

KINDS = {"two-four": "2:4", "of-16-8": "8:16", "of-16-10": "10:16", "of-16-12": "12:16", "dense": "dense"}


def drawn(section: Section) -> ElementTree.Element:
    assert section.chart
    return ElementTree.fromstring(section.chart)


def bars(section: Section) -> list[tuple[float, float, list[tuple[str, float, float]]]]:
    """Left edge, right edge, and (kind, top, height) of the parts of each bar."""
    found = []
    for bar in drawn(section).findall("g[@class='bars']/g"):
        rects = bar.findall("rect")
        left, width = float(rects[0].get("x", 0)), float(rects[0].get("width", 0))
        parts = [
            (KINDS[one.get("class", "")], float(one.get("y", 0)), float(one.get("height", 0)))
            for one in rects
        ]
        found.append((left, left + width, parts))
    return found


def check_parts(section: Section, kinds: list[str]) -> None:
    """The parts of a bar stand on each other, in the order of the key, and the lowest stands on the axis."""
    base = float(drawn(section).find("line[@class='axis']").get("y1"))
    for _, _, parts in bars(section):
        places = [kinds.index(kind) for kind, _, _ in parts]
        assert places == sorted(set(places))
        below = base
        for _, top, height in parts:
            assert top + height == pytest.approx(below, abs=0.11)
            below = top
        assert below >= 0


def masks_of(out: Out) -> MaskSet:
    return MaskSet.load(out.write() / "masks.safetensors")


def test_bars_change_at_the_cut(tmp_path: Path) -> None:
    section = scores(masks_of(Out(tmp_path, llama_shapes(4, 512, 512, 1024), 0.3)))
    cut = float(drawn(section).find("g[@class='cut']/line").get("x1"))
    for left, right, parts in bars(section):
        there = [kind for kind, _, _ in parts]
        assert "2:4" not in there or left <= cut
        assert "dense" not in there or right + 1 >= cut
    check_parts(section, ["2:4", "dense"])


def test_bars_have_parts_by_kind(tmp_path: Path) -> None:
    out = Out(tmp_path, llama_shapes(4, 512, 512, 1024), 0.3)
    assert out.record.scores is not None
    sparse = out.record.scores.sparse
    halves = {
        kind: ScoreCounts(weights=[n // part for n in sparse.weights], tiles=sparse.tiles)
        for kind, part in (("12:16", 3), ("10:16", 4), ("8:16", 2))
    }
    none = ScoreCounts(weights=[0] * 40, tiles=[0] * 40)
    out.record.scores = out.record.scores.model_copy(update={"others": halves, "sparse": none})
    section = scores(masks_of(out))
    said = ["8:16", "10:16", "12:16", "dense"]  # what prunes most is lowest
    check_parts(section, said)
    assert max(len(parts) for _, _, parts in bars(section)) >= 3
    assert (
        re.findall(r"[\d,]+ tiles are ([\w:]+)", section.about) == said and "the cut lies at" in section.about
    )
    assert "a pruned tile in its own kind" in section.about


def test_several_cuts_are_not_drawn(tmp_path: Path) -> None:
    out = Out(tmp_path, llama_shapes(2, 256, 256, 512), 0.3)
    assert out.record.scores is not None
    changed = {"cut": None, "ranked": "by score per zeroed weight, in 2 groups"}
    out.record.scores = out.record.scores.model_copy(update=changed)
    assert drawn(scores(masks_of(out))).find("g[@class='cut']") is None


def test_no_scores_no_chart(tmp_path: Path) -> None:
    out = Out(tmp_path, llama_shapes(2, 256, 256, 512), 0.3)
    out.record.scores = None
    assert scores(masks_of(out)) == Section()


def test_depth_needs_two_blocks() -> None:
    blocks = [BlockError(block=i, error=0.1 * i) for i in range(40)]
    assert depth_chart([]) is None and depth_chart(blocks[:1]) is None
    found = depth_chart(blocks)
    assert found is not None
    chart = ElementTree.fromstring(found[0])
    heights = [float(dot.get("cy", 0)) for dot in chart.findall("g[@class='points']/circle")]
    assert len(heights) == 40 and heights == sorted(heights, reverse=True)


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out", llama_shapes(2, 256, 128, 384))


def marks(section: Section) -> dict[str, ElementTree.Element]:
    found = drawn(section).findall("g[@class='spots']/path")
    return {str(mark.findtext("title")).split(":")[0].replace("uniform-2", "uniform"): mark for mark in found}


def place(mark: ElementTree.Element) -> list[float]:
    return [float(part) for part in re.findall(r"[\d.]+", mark.get("transform", ""))]


def charted(out: Out, *found: Any) -> Section:
    return frontier(Sources.read(out.write(*found)))


def test_single_builds_have_no_picture(out: Out) -> None:
    """Two points say nothing."""
    assert charted(out) == charted(out, verified(out).model_copy(update={"baselines": None})) == Section()


def test_baselines_lie_where_their_tiles_put_them(out: Out) -> None:
    """At a quarter of zeros 12:16 takes 1.625 bytes a weight, and 2:4 tiles 1.5625."""
    uniform = next(row for row in baselines().rows if row.name == "uniform-2:4")
    mixed = uniform.model_copy(update={"name": "mixed", "ratio": 0.25, "bytes_per_weight": 1.625})
    rows = {"rows": (*baselines().rows, mixed)}
    section = charted(
        out, verified(out).model_copy(update={"baselines": baselines().model_copy(update=rows)})
    )
    found = marks(section)
    assert "unstructured" not in found  # no kernel makes it smaller
    (x, y), (dense_x, dense_y) = place(found["this build"]), place(found["dense"])
    assert x > dense_x and y < dense_y  # smaller is further right, and a higher perplexity further up
    before = out.report["plan"]["totals"]["bytes_before"]
    assert found["uniform"].findtext("title") == f"uniform-2:4: 41.30, {before * 0.5625 / 1e6:.2f} MB"
    assert f"{before * 1.625 / 2 / 1e6:.2f} MB" in str(found["mixed"].findtext("title"))
    beaten = {name for name, mark in found.items() if "beaten" in mark.get("class", "")}
    assert {"random-tiles", "this build"} <= beaten and "ffn-only" not in beaten
    assert "The baseline ffn-only is not larger than this build and loses less." in section.about


def test_an_unbeaten_build_is_named(out: Out) -> None:
    rows = tuple(row for row in baselines().rows if row.name != "ffn-only")
    found = verified(out).model_copy(update={"baselines": baselines().model_copy(update={"rows": rows})})
    assert "No baseline that was measured is as small" in charted(out, found).about


def test_infinite_losses_have_no_place(out: Out) -> None:
    first, *others = baselines().rows
    rows = (first.model_copy(update={"perplexity": float("inf")}), *others)
    found = verified(out).model_copy(update={"baselines": baselines().model_copy(update={"rows": rows})})
    assert charted(out, found) == Section()


def test_types_of_weights_differ_in_shape(out: Out) -> None:
    """Print shows shapes too."""
    sources = Sources.read(out.write(verified(out)))
    name, mask = next(iter(sources.masks.items()))
    sources.masks.grids[name] = Grid(INT8, np.ones(mask.shape[0], np.float32))
    section = frontier(sources)
    circles = {name for name, mark in marks(section).items() if mark.get("d") == MARKERS["circle"]}
    assert circles == {"dense"}
    assert f"{len(sources.masks) - 1} 16-bit, 1 int8" in section.lines[0]
