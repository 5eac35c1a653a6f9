"""Takes the pictures of the tutorial from a report, in a Chromium.

    python -m docs.screenshots out/smollm2

Each picture is the section of OUT/report.html that has the heading beside its name.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.report.page.chromium import ARGUMENTS, find_chromium

FOLDER = Path(__file__).parent / "tutorial"
PICTURES = {
    "verdict.png": "Three questions",
    "speed.png": "Speed",
    "tiles.png": "Where it is sparse",
}
_WIDTH = 1000


def main(out: Path) -> None:
    """Write the pictures of a build's report."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": _WIDTH, "height": 900}, color_scheme="light")
        page.goto((out / "report.html").resolve().as_uri())
        FOLDER.mkdir(exist_ok=True)
        for name, heading in PICTURES.items():
            page.locator("section", has=page.get_by_role("heading", name=heading, exact=True)).screenshot(
                path=FOLDER / name
            )
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
