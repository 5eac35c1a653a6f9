"""report.html: what a build is, what it cost and what it brings, on one page that needs nothing beside it."""

from patch_compile.report.page.renew import renew_page
from patch_compile.report.page.write import write_page

__all__ = ["renew_page", "write_page"]
