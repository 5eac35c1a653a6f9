"""Hooks of MkDocs (`make docs`): pages from elsewhere in the repository, pages made from the code, and links to them.

On the site a page of the repository's root or of samples/ has the place that `ELSEWHERE` names. Pages of `MADE` follow from
the code and have no file. A link leads to the page on the site, where there is one; of a link to a source file the text
stays, without the link.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from error_catalogue import catalogue
from file_formats import formats
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pass_rules import passes

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "project/security.md",
    "samples/cpp_runner/README.md": "howto/samples/cpp_runner.md",
    "samples/edgellm/README.md": "howto/samples/edgellm.md",
    "samples/quickstart/README.md": "howto/samples/quickstart.md",
    "samples/serve_http/README.md": "howto/samples/serve_http.md",
    "samples/triton_server/README.md": "howto/samples/triton_server.md",
    "samples/trtexec.md": "howto/samples/trtexec.md",
}
"""Place on the site by the place in the repository. A link to a folder means its README.md."""

MADE = {"reference/errors.md": catalogue, "reference/formats.md": formats, "reference/passes.md": passes}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    for place, make in MADE.items():
        files.append(File.generated(config, place, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point the links of a page to the pages of the site."""
    places = {place: source for source, place in ELSEWHERE.items()}
    source = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return with_site_links(markdown, source, page.file.src_uri)


def with_site_links(markdown: str, source: str, place: str) -> str:
    """Returns a page with its links as they are on the site. source, place: its paths in the repository and on the site."""

    def link(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return found[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        readme = posixpath.join(there, "README.md")
        place_there = ELSEWHERE.get(there) or ELSEWHERE.get(readme)
        if place_there is None and there.startswith("docs/"):
            inner = there.removeprefix("docs/")
            place_there = f"{inner}/index.md" if (ROOT / there).is_dir() else inner
        if place_there is None and (ROOT / there).exists():
            return text
        if place_there is None:
            return found[0]  # MkDocs says that it leads nowhere
        relative = posixpath.relpath(place_there, posixpath.dirname(place) or ".")
        return f"{picture}[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)
