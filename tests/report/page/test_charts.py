"""Charts of the page, read from their SVG: errors by depth, quality against size."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.artifacts.verify_schema import BlockError
from patch_compile.report.page.charts import depth_chart, frontier
from patch_compile.report.page.page_data import Sources
from patch_compile.report.section import Section
from patch_compile.report.svg import MARKERS
from tests.report.page.found import baselines, verified
from tests.report.page.outs import Out, llama_shapes


def drawn(section: Section) -> ElementTree.Element:
    assert section.chart
    return ElementTree.fromstring(section.chart)


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
    assert found["uniform"].findtext("title") == f"uniform-2:4: 21.40, {before * 0.5625 / 1e6:.2f} MB"
    assert f"{before * 1.625 / 2 / 1e6:.2f} MB" in str(found["mixed"].findtext("title"))
    beaten = {name for name, mark in found.items() if "beaten" in mark.get("class", "")}
    assert {"mixed", "this build"} <= beaten and "uniform" not in beaten
    assert "The baseline uniform-2:4 is not larger than this build and loses less." in section.about


def test_an_unbeaten_build_is_named(out: Out) -> None:
    worse = {"uniform-2:4": {"perplexity": 41.3}}
    rows = tuple(row.model_copy(update=worse.get(row.name, {})) for row in baselines().rows)
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
