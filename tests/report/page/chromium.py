"""Finds a Chromium on this machine to test pages in."""

import shutil
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = f"no browser: install Chromium ({', '.join(NAMES)} on PATH), or run `playwright install chromium`"
# headless, possible in a container, and without network requests of its own
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """Path of a Chromium on PATH, or of Playwright's Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next(map(str, _of_playwright()), None)


def _of_playwright() -> list[Path]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    return [path] if path.is_file() else []


if __name__ == "__main__":
    raise SystemExit(0 if find_chromium() else MISSING)
