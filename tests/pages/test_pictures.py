"""Pictures of pages in a real browser: nothing is cut off or covered, and kinds of tiles have the colours of reports."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from docs.svg import Box
from tests.pages.page import ROOT
from tests.report.page.conftest import browser as browser
from tests.report.page.outs import Out, llama_shapes, write_page

pytestmark = pytest.mark.browser
DOCS = ROOT / "docs/explanation"


def boxes(page: Any, selector: str) -> dict[str, Box]:
    """Boxes of elements by their number and text."""
    found = page.locator(selector).evaluate_all(
        "all => all.map((one, i) => [`${i} ${one.textContent}`, one.getBoundingClientRect().toJSON()])"
    )
    return {name: Box(box["left"], box["top"], box["right"], box["bottom"]) for name, box in found}


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.svg")))
def test_nothing_is_cut_off(browser: Any, name: str) -> None:
    with browser.new_page() as page:
        page.goto((DOCS / name).as_uri())
        (whole,) = boxes(page, "svg").values()
        drawn = boxes(page, "svg :is(text, rect, path):not(.paper, defs *)")
        assert drawn and [one for one, box in drawn.items() if not whole.holds(box)] == []


def test_nothing_covers_words(browser: Any) -> None:
    with browser.new_page() as page:
        page.goto((DOCS / "quality.svg").as_uri())
        words, marks = boxes(page, "text"), boxes(page, "path:has(title)")
        assert len(words) > 15 and len(marks) > 5
        assert [pair for pair in combinations(words, 2) if words[pair[0]].overlaps(words[pair[1]])] == []
        assert [pair for pair in product(words, marks) if words[pair[0]].overlaps(marks[pair[1]])] == []
        assert [pair for pair in combinations(marks, 2) if marks[pair[0]].overlaps(marks[pair[1]])] == []


def test_kinds_have_one_colour(browser: Any, tmp_path: Path) -> None:
    """Of the tile maps of reports, of the pictures of tiles and of the picture of losses."""
    report = write_page(Out(tmp_path / "out", llama_shapes(2, 256, 256, 512)).write())

    def colours(file: Path, *places: tuple[str, str]) -> list[str]:
        page.goto(file.as_uri())
        return [
            page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{what}")
            for selector, what in places
        ]

    seen = []
    for scheme in ("light", "dark"):
        with browser.new_page(color_scheme=scheme) as page:
            tiles = colours(report, (".map svg", "backgroundColor"), (".map path.two-four", "fill"))
            assert tiles == colours(DOCS / "mosaic.svg", ("rect.dense", "fill"), ("rect.sparse", "fill"))
            assert tiles == colours(DOCS / "slab.svg", ("rect.dense", "fill"), ("rect.sparse", "fill"))
            assert tiles == colours(
                DOCS / "quality.svg", (".mark.dense", "fill"), (".mark.two-four", "stroke")
            )
            seen += tiles
    assert len(set(seen)) == 4
