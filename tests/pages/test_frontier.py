"""The picture of perplexity against speed."""

import json
from typing import Any

from docs.frontier import ROWS, draw, spots

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


def test_row_order_changes_nothing() -> None:
    assert draw(DRAWN) == draw(DRAWN[::-1])


def test_the_picture_shows_the_pages_rows() -> None:
    """`make docs` writes it. Predicted times are in it, so it changes with the planner."""
    assert ROWS.with_suffix(".svg").read_text() == draw([*json.loads(ROWS.read_text()).values()])
    assert "](quality.svg)" in ROWS.with_suffix(".md").read_text()
