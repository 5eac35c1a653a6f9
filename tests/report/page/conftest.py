from collections.abc import Iterator
from typing import Any

import pytest

from tests.report.page.chromium import ARGUMENTS, MISSING, find_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium. Playwright keeps an event loop running, beside which no other can run: it ends with the file."""
    path = find_chromium()
    if path is None:
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()
