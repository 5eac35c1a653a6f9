import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ScoreCounts
from patch_compile.artifacts.verify_schema import BlockError, ErrorAttribution
from patch_compile.report.page import write_page
from patch_compile.report.page.chart import (
    Scale,
    decades,
    number_ticks,
    percent_ticks,
    round_ticks,
    ticks_within,
)
from patch_compile.report.page.depth_chart import depth_chart
from patch_compile.report.page.rendering import asset, themed, themes
from patch_compile.report.page.score_chart import score_chart
from patch_compile.report.page.text_width import lines_within, text_width
from tests.report.page.contrast import contrast
from tests.report.page.outs import Out, llama_shapes


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
def test_ticks_lie_within_their_ends_and_say_their_values(low: float, span: float) -> None:
    ticks = ticks_within(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    words = [text for _, text in number_ticks(ticks, Scale(low, low + span, 0, 100))]
    said = [float(text.replace("−", "-").replace(",", "")) for text in words]
    assert said == pytest.approx(ticks, abs=1e-6 * span)


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


def masks_of(out: Out) -> MaskSet:
    return MaskSet.load(out.write() / "masks.safetensors")


def test_bars_are_2_4_before_the_cut_and_dense_behind_it(tmp_path: Path) -> None:
    chart = score_chart(masks_of(Out(tmp_path, llama_shapes(4, 512, 512, 1024), 0.3)))
    assert chart is not None
    cut = chart["cut"]["x"]
    assert chart["kinds"] == ["2:4"] and not chart["several"]
    for bar in chart["bars"]:
        there = [kind for kind, _, _ in bar["parts"]]
        assert "2:4" not in there or bar["x"] <= cut
        assert "dense" not in there or bar["x"] + bar["width"] + 1 >= cut
    _check_parts(chart)


def _check_parts(chart: dict[str, Any]) -> None:
    """The parts of a bar stand on each other, in the order of the key, and the lowest stands on the axis."""
    order = [*chart["kinds"], "dense"]
    for bar in chart["bars"]:
        places = [order.index(kind) for kind, _, _ in bar["parts"]]
        assert places == sorted(set(places))
        below = chart["base"]
        for _, y, height in bar["parts"]:
            assert y + height == pytest.approx(below, abs=0.11)
            below = y
        assert below >= chart["top"]


def test_bars_have_a_part_for_each_kind_of_tile(tmp_path: Path) -> None:
    out = Out(tmp_path, llama_shapes(4, 512, 512, 1024), 0.3)
    assert out.record.scores is not None
    halves = {
        kind: ScoreCounts(
            weights=[n // part for n in out.record.scores.sparse.weights],
            tiles=out.record.scores.sparse.tiles,
        )
        for kind, part in (("12:16", 3), ("8:16", 2), ("6:16", 4))
    }
    none = ScoreCounts(weights=[0] * 40, tiles=[0] * 40)
    out.record.scores = out.record.scores.model_copy(update={"others": halves, "sparse": none})
    masks = masks_of(out)
    assert masks.record.scores == out.record.scores
    chart = score_chart(masks)
    assert chart is not None and chart["several"]
    assert chart["kinds"] == ["6:16", "8:16", "12:16"]  # what prunes most is lowest
    _check_parts(chart)
    assert max(len(bar["parts"]) for bar in chart["bars"]) >= 3
    said = ["6:16", "8:16", "12:16", "dense"]
    assert (
        re.findall(r"[\d,]+ tiles are ([\w:]+)", chart["summary"]) == said
        and "the cut lies at" in chart["summary"]
    )
    assert any(re.findall(r"\d+ tiles ([\w:]+)", bar["words"]) == said[:3] for bar in chart["bars"])
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "a pruned tile in its own kind, a dense one in the kind that would cost least" in page


def test_several_cuts_are_not_drawn(tmp_path: Path) -> None:
    out = Out(tmp_path, llama_shapes(2, 256, 256, 512), 0.3)
    assert out.record.scores is not None
    changed = {"cut": None, "ranked": "by score per zeroed weight, in 2 groups"}
    out.record.scores = out.record.scores.model_copy(update=changed)
    chart = score_chart(masks_of(out))
    assert chart is not None and chart["cut"] is None


def test_no_scores_no_chart(tmp_path: Path) -> None:
    out = Out(tmp_path, llama_shapes(2, 256, 256, 512), 0.3)
    out.record.scores = None
    assert score_chart(masks_of(out)) is None


def test_depth_needs_two_blocks() -> None:
    def where(blocks: int) -> ErrorAttribution:
        errors = (BlockError(block=i, error=0.1 * i) for i in range(blocks))
        return ErrorAttribution(linears=(), blocks=tuple(errors))

    assert depth_chart(None) is None
    assert depth_chart(where(1)) is None
    chart = depth_chart(where(40))
    assert chart is not None
    assert len(chart["points"]) == 40 and len(chart["x_ticks"]) <= 12
    heights = [point["y"] for point in chart["points"]]
    assert heights == sorted(heights, reverse=True)


def test_colours_of_charts_stand_out_on_paper_in_light_dark_and_print() -> None:
    assert set(themes()) == {"screen", "(prefers-color-scheme: dark)", "print"}
    for theme in themes().values():
        series = [theme[f"series-{i}"] for i in range(1, 7)]
        assert len(set(series)) == 6
        assert all(contrast(colour, theme["paper"]) >= 3 for colour in series)
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
