"""The page in a real browser fetches nothing, logs no error, and reacts to a user."""

import base64
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.artifacts.benched import benched
from tests.report.page.contrast import contrast
from tests.report.page.found import verified
from tests.report.page.outs import LLAMA_2_7B, SMOLLM2, Out, write_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page of a build with all that verify and bench add."""
    out = Out(tmp_path_factory.mktemp("full") / "out")
    return write_page(out.write(verified(out), benched()))


@pytest.fixture
def open_page(browser: Any) -> Any:
    """open_page(path, **options of the context) opens a page; its log and requests are checked at the end."""
    opened: list[Any] = []

    def open_(path: Path, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        opened.append((context, page, path))
        return page

    yield open_
    for context, page, path in opened:
        assert page.said == []
        assert [url for url in page.asked if not url.startswith("data:")] == [path.as_uri()]
        context.close()


def column(page: Any, number: int) -> list[str]:
    cells = page.locator(f"#linears tbody tr:not([hidden]) > :nth-child({number})")
    return [text.strip() for text in cells.all_text_contents()]


def test_it_renders_and_asks_for_nothing(report: Path, open_page: Any) -> None:
    page = open_page(report)
    headings = page.locator("h2").all_text_contents()
    assert headings == [
        "Three questions", "Baselines", "Speed", "Where it is sparse",
        "Where the error arises", "Plan", "Tasks and text", "How it was made",
    ]  # fmt: skip
    assert page.locator("button.map").count() == page.locator("#linears tbody tr").count() == len(SMOLLM2)
    assert page.locator("h1").inner_text() == "smollm2-135m"


def test_every_map_is_drawn(report: Path, open_page: Any) -> None:
    page = open_page(report)
    boxes = page.locator("button.map svg").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().toJSON())"
    )
    assert min(box["width"] for box in boxes) > 8
    assert min(box["height"] for box in boxes) > 4


def test_sorting_by_mouse_and_keyboard(report: Path, open_page: Any) -> None:
    page = open_page(report)
    header = page.locator("#linears th[aria-sort]").nth(4)
    assert header.inner_text() == "p"
    header.locator("button").click()
    shares = [float(text) for text in column(page, 5)]
    assert shares == sorted(shares) and len(set(shares)) > 2
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").press("Enter")
    assert [float(text) for text in column(page, 5)] == sorted(shares, reverse=True)
    assert page.locator("#linears th[aria-sort=descending]").count() == 1
    page.locator("#linears th[aria-sort] button").nth(0).click()
    assert header.get_attribute("aria-sort") == "none"
    names = column(page, 1)
    assert names.index("model.layers.9.mlp.up_proj") < names.index("model.layers.10.mlp.up_proj")


def test_filtering(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.get_by_label("Filter", exact=True).fill("up_proj layers.1")
    names = column(page, 1)
    assert names and all("up_proj" in name and "layers.1" in name for name in names)
    assert page.locator("#found").inner_text() == f"{len(names)} of {len(SMOLLM2)} linears"
    page.get_by_label("Filter", exact=True).fill("")
    assert len(column(page, 1)) == len(SMOLLM2)


def test_a_map_opens_large_and_closes(report: Path, open_page: Any) -> None:
    page = open_page(report)
    map_ = page.locator("button.map[data-name='model.layers.3.mlp.up_proj']")
    map_.click()
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    assert dialog.locator("h3").inner_text() == "model.layers.3.mlp.up_proj"
    assert "1536×576 in tiles of 128x128" in dialog.inner_text()
    ticks = dialog.locator("#zoom-stage text").all_text_contents()
    assert {"0", "400", "1000"} <= set(ticks)  # columns of 576, rows of 1536
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.dataset.name") == "model.layers.3.mlp.up_proj"


def test_maps_open_and_zoom_by_keys(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.locator("button.map").nth(9).press("Enter")
    stage = page.locator("#zoom-stage")
    width = "document.querySelector('#zoom-stage > svg').getBoundingClientRect().width"
    first = page.evaluate(width)
    page.keyboard.press("+")
    larger = page.evaluate(width)
    stage.hover(position={"x": 200, "y": 100})
    page.mouse.wheel(0, -100)
    page.wait_for_function(f"{width} > {larger}")
    page.keyboard.press("0")
    assert page.evaluate(width) == first < larger
    page.keyboard.press("n")
    assert page.locator("#zoom-name").inner_text() == page.locator("button.map").nth(10).get_attribute(
        "data-name"
    )


def test_pointing_at_a_tile_tells_what_it_is(tmp_path: Path, open_page: Any) -> None:
    """The text is checked against the tile map, in the ragged last row too."""
    out = Out(tmp_path / "out", {"model.layers.0.mlp.up_proj": (200, 576)}, ratio=0.2)
    page = open_page(write_page(out.write()))
    page.locator("button.map").click()
    box = page.locator("#zoom-stage .ground").bounding_box()
    for row, high in ((0, 64), (1, 164)):
        for place in range(5):
            x = box["x"] + box["width"] * min(128 * place + 60, 570) / 576
            page.mouse.move(x, box["y"] + box["height"] * high / 200)
            said = page.locator("#zoom-tile").inner_text()
            ends = f"rows {128 * row}–{(127, 199)[row]}, columns {128 * place}–{min(128 * place + 127, 575)}"
            kind = "2:4" if out.tiles["model.layers.0.mlp.up_proj"][row, place] else "dense"
            assert said == f"{ends}: {kind}"


def test_dark_and_light_differ_and_can_be_read(report: Path, open_page: Any) -> None:
    """WCAG 2.1 asks for a contrast of 4.5 for text and of 3 for graphics."""
    grounds = []
    for scheme in ("light", "dark"):
        page = open_page(report, color_scheme=scheme)
        style = page.evaluate(
            "Object.fromEntries(['paper','ink','muted','caution','fault','yes','link','sparse','dense-edge',"
            "'green','yellow','red','grey','on-lamp','on-yellow'].map(name =>"
            " [name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()]))"
        )
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for name, least in {
            "ink": 7,
            "muted": 4.5,
            "caution": 4.5,
            "fault": 4.5,
            "yes": 4.5,
            "link": 4.5,
        }.items():
            assert contrast(style[name], style["paper"]) >= least, (scheme, name)
        for lamp, sign in (("green", "lamp"), ("yellow", "yellow"), ("red", "lamp"), ("grey", "lamp")):
            assert contrast(style[lamp], style[f"on-{sign}"]) >= 4.5, (scheme, lamp)
        assert contrast(style["sparse"], style["paper"]) >= 3 <= contrast(style["dense-edge"], style["paper"])
    assert grounds[0] != grounds[1]


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_the_page_is_never_wider_than_the_window(report: Path, open_page: Any, width: int) -> None:
    page = open_page(report, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("button.map").first.press("Enter")
    box = page.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_phones_show_the_speed_up(report: Path, open_page: Any) -> None:
    """No table has to be scrolled for its most important column."""
    page = open_page(report, width=390)
    headers = page.locator("#speed th:nth-child(2)").filter(has_text="speed-up")
    assert headers.count() == 2
    for box in (header.bounding_box() for header in headers.all()):
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    figures = page.locator("#baselines tbody tr:first-child td").nth(1).bounding_box()
    assert figures["x"] + figures["width"] <= 390


def edges(page: Any, region: Any) -> list[float]:
    """Median brightness of the outermost pixels left and right of an element, from 0 to 1."""
    return page.evaluate(
        """async (png) => {
          const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
          const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
          context.drawImage(image, 0, 0);
          return [0, image.width - 1].map((x) => {
            const reds = [...context.getImageData(x, 0, 1, image.height).data].filter((_, i) => i % 4 == 0);
            return reds.sort((a, b) => a - b)[reds.length >> 1] / 255;
          });
        }""",
        base64.b64encode(region.screenshot()).decode(),
    )


def test_wide_tables_show_that_they_scroll(report: Path, browser: Any, open_page: Any) -> None:
    page = open_page(report, width=390)
    with browser.new_page() as blank:
        region = page.locator("#plan .wide")
        left, right = edges(blank, region)
        assert right < left - 0.1
        region.evaluate("one => one.scrollTo(one.scrollWidth, 0)")
        left, right = edges(blank, region)
        assert left < right - 0.1
        left, right = edges(blank, open_page(report).locator("#plan .wide"))
        assert left == right


def test_the_plan_fits_a_screen(tmp_path: Path, open_page: Any) -> None:
    """Also with tiles of all kinds, int8 weights, long names and fused operations."""
    names = [f"model.layers.{i}.block_sparse_moe.experts.63.gate_proj" for i in (3, 31)]
    out = Out(tmp_path / "out", dict.fromkeys(names, (14336, 4096)), tile=(512, 512))
    for row in out.report["linears"]:
        row["slabs"]["others"] = {"8:16": 30, "12:16": 10, "6:8": 20}
        row |= {"weights": "int8", "bytes_before": 1e9, "bytes_after": 7e8}
        row["node"] |= {
            "linears": [row["name"], f"{row['name']}.up_proj"],
            "gated": True,
            "activation": "silu",
        }
        row["predicted"]["prefill"] |= {"dense": 12345.6, "hybrid": 11234.5, "sparse": 10123.4}
    region = open_page(write_page(out.write())).locator("#plan .wide")
    assert "12,346" in region.inner_text() and "SiLU" in region.inner_text()
    assert region.evaluate("one => one.scrollWidth <= one.clientWidth")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_lights_are_the_first_that_is_seen(report: Path, open_page: Any, width: int) -> None:
    page = open_page(report, width=width)
    lights = page.locator(".lights li")
    assert [one.get_attribute("class") for one in lights.all()] == ["yellow", "red", "yellow"]
    last = lights.last.bounding_box()
    assert last["y"] + last["height"] < page.locator(".lead").bounding_box()["y"] < 900
    lamps = page.locator(".lamp").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert lamps[0] == lamps[2] != lamps[1]
    assert page.locator(".lamp").all_text_contents() == [
        "!",
        "✕",
        "!",
    ]  # not everybody sees a difference in colour
    assert "red:" in lights.nth(1).text_content()


def test_no_question_is_split_over_pages(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.emulate_media(media="print")
    whole = "all => all.every(one => getComputedStyle(one).breakInside == 'avoid')"
    for parts in (".three", ".question", ".lights", "#speed table"):
        assert page.locator(parts).count() and page.locator(parts).evaluate_all(whole), parts


def test_on_paper(report: Path, open_page: Any, tmp_path: Path) -> None:
    """Folded and scrolled parts are printed whole, and folded again afterwards."""
    page = open_page(report)
    page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf[:5] == b"%PDF-" and len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 5
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details").count() == page.locator("details[open]").count() > 3
    assert page.locator("#filter").is_hidden()
    cut = page.locator(".wide").evaluate_all(
        "all => all.filter(one => getComputedStyle(one).overflowX != 'visible').length"
    )
    assert cut == 0


def test_without_javascript_all_is_there(report: Path, open_page: Any) -> None:
    page = open_page(report, java_script_enabled=False)
    assert page.locator("button.map svg path").count() > 200
    assert page.locator("#linears tbody tr").count() == len(SMOLLM2)


def test_everything_drawn_has_a_name(report: Path, open_page: Any) -> None:
    page = open_page(report)
    assert page.locator("svg[role=img]:not([aria-label]):not(:has(title))").count() == 0
    assert page.locator("svg:not([role=img]):not([aria-hidden])").count() == 0
    assert page.locator("table:not(:has(caption))").count() == 0
    levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))


def test_7b_models_make_small_pages(tmp_path: Path, open_page: Any) -> None:
    """The model has LLaMA-2-7B's 32 layers; at ratio .25 tiles along a row alternate most often."""
    out = Out(tmp_path / "out", LLAMA_2_7B, ratio=0.25, tile=(4, 4))
    path = write_page(out.write(verified(out), benched()))
    assert path.stat().st_size < 3_000_000
    page = open_page(path)
    assert page.locator("button.map").count() == 32 * 7
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
