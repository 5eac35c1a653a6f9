"""report.html: the description, quality and speed of a build, on a page that needs no other file."""

from patch_compile.report.page.write import renew_page

__all__ = ["renew_page"]
