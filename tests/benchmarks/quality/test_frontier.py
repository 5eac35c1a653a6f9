"""The picture of perplexity against speed."""

import json
import re
from typing import Any
from xml.etree import ElementTree

from benchmarks.quality.frontier import HIGHEST, ROWS, SERIES, draw, spots

SVG = "{http://www.w3.org/2000/svg}"
UNDER = {"model": "m", "calib": "c.txt", "eval": "e.txt", "eval_windows": 16, "eval_length": 1024}


def row(method: str, ratio: float | None, value: float, **more: Any) -> dict[str, Any]:
    about = {"method": method, "ratio": ratio, "tile": "64x64", "reached": ratio or 0.0, "under": UNDER}
    return about | {"perplexity": value} | more


TILES = "oneshot, 8 min in all, permuted"
REPAIRED = "oneshot + 13 steps of repair"
DRAWN = [
    row("dense", None, 22.9),
    row("dense, w8a8", None, 23.1, kinds={"dense": 1.0}),
    *(row("sparsegpt 2:4", None, value, reached=0.5) for value in (88.2, 82.4, 87.8)),
    *(row(TILES, 0.45, value) for value in (36.9, 38.7, 38.0)),
    row(TILES, 0.35, 31.8, kinds={"dense": 0.3, "2:4": 0.7}),
    row(TILES, 0.35, 10.0, tile="128x128"),
    row(f"{REPAIRED}, w8a8", 0.35, 35.5),
    row(f"{REPAIRED}, kinds 6:8, w8a8", 0.25, 25.0, kinds={"6:8": 1.0}),
    row("random tiles", 0.45, 74.0),
]


def drawn(rows: list[dict[str, Any]]) -> ElementTree.Element:
    return ElementTree.fromstring(draw(rows))


def titles(svg: ElementTree.Element) -> list[str]:
    return [title for path in svg.iter(f"{SVG}path") if (title := path.findtext(f"{SVG}title"))]


def test_rows_lie_at_their_speeds() -> None:
    found = {(spot.method, spot.label): spot for spot in spots(DRAWN)}
    assert len(found) == 7  # neither other methods nor other tile sizes
    tiles = found[TILES, "ratio 0.45"]
    assert tiles.losses == (36.9, 38.0, 38.7) and tiles.loss == 38.0
    assert found["dense", "fp16"].speed == 1.0
    speeds = [spot.speed for spot in (found["dense", "fp16"], found[TILES, "ratio 0.35"], tiles)]
    assert speeds == sorted(speeds) and len(set(speeds)) == 3


def test_w8a8_gains_in_prompts_what_others_gain() -> None:
    """The dense model's time is a library's; the mosaics' gain is that of 2:4 and 6:8 over it."""
    speeds = {spot.method: spot.speed for spot in spots(DRAWN)}
    mild, half = (speeds[f"{REPAIRED}{kinds}, w8a8"] for kinds in (", kinds 6:8", ""))
    assert speeds["dense"] < speeds["dense, w8a8"] < mild < half


def test_losers_lie_at_the_upper_edge() -> None:
    svg = drawn(DRAWN)
    assert "↑ 82 to 88" in [text.text for text in svg.iter(f"{SVG}text")]
    heights = {
        title: float(re.findall(r"[\d.]+", mark.get("transform", ""))[1])
        for mark in svg.iter(f"{SVG}path")
        if (title := mark.findtext(f"{SVG}title"))
    }
    (loser,) = (title for title in heights if "perplexity 87.80" in title)
    assert heights[loser] == min(heights.values())
    ticks = [float(text.text or 0) for text in svg.iter(f"{SVG}text") if (text.text or "").isdigit()]
    assert max(ticks) == HIGHEST


def test_the_picture_is_one_panel_of_five_series() -> None:
    svg = drawn(DRAWN)
    assert len(svg.findall(f"{SVG}line[@class='axis']")) == 1
    legend = list(dict.fromkeys(one.words for one in SERIES.values()))
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert len(legend) == 5 and texts[:5] == legend
    assert len({(one.outline, one.style) for one in SERIES.values()}) == 5
    assert (
        sum(
            title.startswith("2:4 and dense tiles, fp16, ratio 0.45: perplexity 38.00")
            for title in titles(svg)
        )
        == 1
    )
    words = " ".join(text or "" for text in texts)
    assert "perplexity of m on e.txt, first 16 windows × 1024 tokens (lower is better)" in words
    assert "speed over dense fp16, predicted for LLaMA-2-7B on an A6000, prefill of 16 × 512 tokens" in words


def test_row_order_changes_nothing() -> None:
    assert draw(DRAWN) == draw(DRAWN[::-1])


def test_the_picture_shows_the_pages_rows() -> None:
    """`make docs` writes it. Predicted times are in it, so it changes with the planner."""
    assert ROWS.with_suffix(".svg").read_text() == draw([*json.loads(ROWS.read_text()).values()])
    assert "](quality.svg)" in ROWS.with_suffix(".md").read_text()
