"""Renews the page of a changed OUT."""

from __future__ import annotations

from pathlib import Path

from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import PAGE
from patch_compile.out.workspace import key_of
from patch_compile.report.page.write import write_page

__all__ = ["renew_page"]

_STAGE = "page"


def renew_page(out: Path) -> None:
    """Write OUT/report.html anew and record it in the manifest. See `write_page` for its sources."""
    folder = OutFolder.open(out, check=False)
    files = {name: digest for name, digest in folder.manifest.files.items() if name != PAGE}
    folder.record(_STAGE, key_of(files), [str(write_page(out).relative_to(out))])
