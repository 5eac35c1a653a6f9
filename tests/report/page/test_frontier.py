"""The picture of quality against size: the build, the dense model, and baselines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.report.page.frontier import frontier
from patch_compile.report.page.page_data import Sources
from tests.report.page.found import baselines, verified
from tests.report.page.outs import Out, llama_shapes


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "out", llama_shapes(2, 256, 128, 384))


def drawn(out: Out, *found: Any) -> dict[str, Any]:
    picture = frontier(Sources.read(out.write(*found)))
    assert picture is not None
    return picture


def places(picture: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {mark["name"]: (mark["x"], mark["y"]) for mark in picture["marks"]}


def test_a_build_alone_is_drawn_beside_the_dense_model(out: Out) -> None:
    picture = drawn(out)
    at = places(picture)
    assert set(at) == {"dense", "this build"}
    assert at["this build"][0] > at["dense"][0]  # smaller is further right
    assert at["this build"][1] < at["dense"][1]  # a higher perplexity is further up
    assert picture["line"] == [at["dense"], at["this build"]] and not picture["estimated"]
    assert "No other way of pruning was measured" in picture["summary"]


def test_baselines_lie_where_their_tiles_put_them(out: Out) -> None:
    picture = drawn(out, verified(out))
    marks = {mark["name"]: mark for mark in picture["marks"]}
    assert "unstructured" not in marks  # no kernel makes it smaller
    assert set(marks) > {"uniform-2:4", "ffn-only", "magnitude-tiles", "random-tiles"}
    before = out.report["plan"]["totals"]["bytes_before"]
    assert marks["uniform-2:4"]["words"] == f"uniform-2:4: 41.30, {before * 0.5625 / 1e6:.2f} MB"
    assert marks["ffn-only"]["beaten"] is False and marks["random-tiles"]["beaten"] is True
    assert marks["this build"]["beaten"] is True
    assert "The baseline ffn-only is no larger than this build and loses less." in picture["summary"]
    assert picture["estimated"]


def test_a_baseline_of_other_kinds_lies_where_its_bytes_put_it(out: Out) -> None:
    """At a quarter of zeros 12:16 takes 1.625 bytes a weight, and 2:4 tiles 1.5625."""
    uniform = next(row for row in baselines().rows if row.name == "uniform-2:4")
    row = uniform.model_copy(update={"name": "uniform-12:16", "ratio": 0.25, "bytes_per_weight": 1.625})
    changed = {"rows": (*baselines().rows, row)}
    found = verified(out).model_copy(update={"baselines": baselines().model_copy(update=changed)})
    marks = {mark["name"]: mark["words"] for mark in drawn(out, found)["marks"]}
    before = out.report["plan"]["totals"]["bytes_before"]
    assert f"{before * 1.625 / 2 / 1e6:.2f} MB" in marks["uniform-12:16"]


def test_a_build_that_nothing_beats_is_told(out: Out) -> None:
    rows = tuple(row for row in baselines().rows if row.name != "ffn-only")
    found = verified(out).model_copy(update={"baselines": baselines().model_copy(update={"rows": rows})})
    assert "No baseline that was measured is as small" in drawn(out, found)["summary"]


def test_a_loss_that_is_not_finite_has_no_place(out: Out) -> None:
    out.report["perplexity"]["hybrid"] = None  # JSON has no infinity
    assert frontier(Sources.read(out.write())) is None


def test_all_lies_within_the_picture(out: Out) -> None:
    picture = drawn(out, verified(out))
    width, height = picture["size"]
    for label in picture["labels"]:
        assert label.box.left >= 0 and label.box.right <= width
        assert label.box.top >= 0 and label.box.bottom <= height
    assert all(0 < x < width and 0 < y < height for x, y in places(picture).values())


def test_types_of_weights_are_told_apart(out: Out) -> None:
    """Their marks have another shape, which print shows too."""
    sources = Sources.read(out.write(verified(out)))
    assert not any(mark["quantised"] for mark in frontier(sources)["marks"])
    name, mask = next(iter(sources.masks.items()))
    sources.masks.grids[name] = Grid(INT8, np.ones(mask.shape[0], np.float32))
    picture = frontier(sources)
    assert {mark["name"] for mark in picture["marks"] if not mark["quantised"]} == {"dense"}
    assert picture["types"] == f"{len(sources.masks) - 1} 16-bit, 1 int8"
