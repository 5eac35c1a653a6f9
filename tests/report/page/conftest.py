from collections.abc import Iterator
from typing import Any

import pytest

from tests.report.page.chromium import ARGUMENTS, MISSING, find_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium per file, because Playwright's event loop would keep other tests from running theirs."""
    path = find_chromium()
    if path is None:
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()
