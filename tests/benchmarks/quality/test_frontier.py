"""The picture of perplexity against bytes and time."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.quality.entries import AUTO, NO_REPAIR, entries
from benchmarks.quality.frontier import SERIES, bytes_of, draw, main, of_one_protocol, spots
from benchmarks.quality.page import page
from benchmarks.quality.run import arguments
from tests.refusals import refused

DOCS = Path(__file__).parents[3] / "docs/explanation"
UNDER = {"model": "m", "calib": "c.txt", "eval": "e.txt", "eval_windows": 16, "eval_length": 1024}


def row(method: str, ratio: float | None, value: float, **more: Any) -> dict[str, Any]:
    about = {
        "method": method,
        "ratio": ratio,
        "tile": "64x64",
        "seed": 0,
        "reached": ratio or 0.0,
        "under": UNDER,
    }
    return about | {"perplexity": value} | more


ROWS = [
    row("dense", None, 22.9),
    *(row(NO_REPAIR, 0.45, value, seed=seed) for seed, value in enumerate((46.9, 48.7, 48.0))),
    row(NO_REPAIR, 0.35, 37.8, kinds={"dense": 0.3, "2:4": 0.7}, bytes_per_weight=1.3875),
    row(NO_REPAIR, 0.35, 10.0, tile="128x128"),
    row(AUTO, 0.45, 35.5, reached=0.41, kinds={"8:16": 0.5, "12:16": 0.5}, bytes_per_weight=1.2125),
    row("sparsegpt 12:16", None, 25.0, kinds={"12:16": 1.0}, bytes_per_weight=1.625),
    row("random tiles", 0.45, 74.0),
]


def test_rows_lie_at_bytes_and_times() -> None:
    found = {(spot.method, spot.label): spot for spot in spots(ROWS)}
    assert len(found) == 5  # neither other methods nor other tile sizes
    assert {key: round(spot.taken, 6) for key, spot in found.items()} == {
        ("dense", ""): 2.0, (NO_REPAIR, "ratio 0.45"): 1.2125, (NO_REPAIR, "ratio 0.35"): 1.3875, (AUTO, ""): 1.2125,
        ("sparsegpt 12:16", "12:16"): 1.625,
    }  # fmt: skip
    assert (
        found[NO_REPAIR, "ratio 0.45"].losses == (46.9, 48.0, 48.7)
        and found[NO_REPAIR, "ratio 0.45"].loss == 48.0
    )
    times = {key: (spot.prompt, spot.step) for key, spot in found.items()}
    assert times[NO_REPAIR, "ratio 0.45"] < times[NO_REPAIR, "ratio 0.35"] < times["dense", ""]
    # Decode takes the time of the bytes; slabs of 8:16 and 12:16 in equal parts have 1.375 a weight. Prompts gain by 2:4.
    steps = {key: step for key, (_, step) in times.items()}
    assert steps[AUTO, ""] < steps["sparsegpt 12:16", "12:16"] < steps["dense", ""]
    assert times["sparsegpt 12:16", "12:16"][0] > times["dense", ""][0]


def test_quantised_rows_take_the_bytes_of_their_type() -> None:
    types = {"int8": 1.0, "int4": 0.53125}
    rows = [
        row(
            f"dense, {name}",
            None,
            23.0,
            kinds={"dense": 1.0},
            bytes_per_weight=2.0,
            packed_bytes_per_weight=size,
        )
        for name, size in types.items()
    ]
    dense, *quantised = sorted(spots([ROWS[0], *rows]), key=lambda spot: -spot.taken)
    assert {spot.label: spot.taken for spot in quantised} == types
    assert dense.step > quantised[0].step > quantised[1].step


def test_dropped_blocks_take_no_time() -> None:
    dropped = row("dropped blocks", 0.45, 90.0, reached=0.5, packed_bytes_per_weight=1.0)
    dense, half = spots([ROWS[0], dropped])
    assert half.taken == dense.taken / 2
    assert dense.prompt / 2 < half.prompt < 0.53 * dense.prompt  # the head stays
    assert dense.step / 2 < half.step < 0.53 * dense.step


def test_w8a8_gains_in_prompts_what_others_gain() -> None:
    """The dense model's time is cuBLASLt's; the mosaic's gain is 2:4's."""
    dense = row("dense, w8a8", None, 23.1, kinds={"dense": 1.0}, packed_bytes_per_weight=1.0)
    mosaic = row(f"{NO_REPAIR}, w8a8", 0.35, 38.6, packed_bytes_per_weight=0.7)
    in_16_bits, rival, ours = spots([ROWS[0], dense, mosaic])
    assert ours.prompt < rival.prompt < in_16_bits.prompt and ours.step < rival.step < in_16_bits.step


def test_only_2_4_takes_its_ratios_bytes() -> None:
    assert [bytes_of({"reached": ratio}) for ratio in (0.0, 0.25, 0.5)] == [2.0, 1.5625, 1.125]


def test_every_row_is_in_all_pictures() -> None:
    svg = ElementTree.fromstring(draw(ROWS))
    titles = [path.findtext("{*}title") for path in svg.iter("{http://www.w3.org/2000/svg}path")]
    said = [title for title in titles if title]
    assert sum(title.startswith("dense and 2:4 tiles, ratio 0.45: perplexity 48.00") for title in said) == 3
    assert sum(title.startswith("tiles of all kinds (auto): perplexity 35.50") for title in said) == 3
    assert sum(title.startswith("n:16 everywhere") for title in said) == 3
    words = " ".join(text.text or "" for text in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert "perplexity of m on e.txt, first 16 windows × 1024 tokens (lower is better)" in words
    assert (
        "bytes of a packed weight" in words
        and "predicted ms of a decode step" in words
        and "predicted ms of a prompt" in words
    )


def test_row_order_changes_nothing() -> None:
    assert draw(ROWS) == draw(ROWS[::-1])
    looks = {words: outline for words, outline, _, _ in SERIES.values()}
    assert len(set(looks.values())) == len(looks)
    assert {*SERIES} <= {entry.method for entry in entries()}


def test_rows_of_another_protocol_are_not_drawn() -> None:
    other = row("dense", None, 29.2, under=UNDER | {"eval_windows": 8})
    other_tool = row("dense", None, 1.0)
    del other_tool["under"]
    assert of_one_protocol([other, other_tool, *ROWS]) == ROWS
    with refused(ValueError):
        draw([row("random tiles", 0.45, 74.0)])


def test_the_picture_shows_the_pages_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make docs` writes it. Predicted times are in it, so it changes with the planner."""
    assert main([str(DOCS / "quality.json"), "--check"]) == 0, capsys.readouterr().err
    assert "](quality.svg)" in (DOCS / "quality.md").read_text()
    state = json.loads((DOCS / "quality.json").read_text())
    next(one for one in state.values() if one.get("method") == "dense")["perplexity"] += 1
    (tmp_path / "q.json").write_text(json.dumps(state))
    shutil.copy(DOCS / "quality.svg", tmp_path / "q.svg")
    assert main([str(tmp_path / "q.json"), "--check"]) == 1
    assert re.search(r"q\.svg is not the picture of .*q\.json: python -m", capsys.readouterr().err)
    assert main([str(tmp_path / "q.json")]) == main([str(tmp_path / "q.json"), "--check"]) == 0


def test_the_page_explains_auto(tmp_path: Path) -> None:
    asked = arguments([str(tmp_path), "--calib", "c", "--eval", "e"])
    more = {"machine": "one", "date": "2026-11-27", "seconds": 1.0, "peak_gib": 1.0}
    rows = [found | more for found in ROWS]
    assert "](q.svg)" in page(rows, asked, picture="q.svg") and ".svg" not in page(rows, asked)
    assert "`kinds auto`: tiles of all kinds" in page(rows, asked)
    assert "`kinds auto`" not in page(rows[:3], asked)
    assert f"| 0.45 | {AUTO}: 35.50 |" in page(rows, asked)
