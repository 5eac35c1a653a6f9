"""Finds the commands and snippets of a page of documentation.

A block is a fence of three backticks with a language, or lines indented by four columns after an empty line. An
indented block is of commands if its first word is a program. `<!-- run: RULE -->` in the line before a block says how a test
treats it:

| rule | |
| --- | --- |
| exit N | the commands end with this exit code |
| process | a Python snippet runs in a process of its own, since it changes registries |
| needs WHAT | it needs hardware or hours: options and files are checked, and nothing runs |
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "ATTACKS", "LD_PRELOAD", "accelerate", "bash", "build/runner/patch_runner", "cmake", "ctest", "curl", "git", "hf",
    "make", "patch-compile", "patch_runner", "pip", "pre-commit", "python", "python3", "source", ".", "trtexec",
    "tritonserver", "samples/serve_http/serve.sh",
}  # fmt: skip
SHELL = ("sh", "bash")


@dataclass(frozen=True)
class Block:
    """One block of a page. language: "sh" for indented commands; rule: text of its comment, "" for none."""

    language: str
    text: str
    line: int
    rule: str = ""

    def commands(self) -> list[list[str]]:
        """Words of each command of a shell block, without comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        found = [shlex.split(line, comments=True) for line in joined.splitlines()]
        return [part for words in found if words for part in _parts(words)]


def _parts(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word == "&&":
            yield part
            part = []
        else:
            part.append(word)
    yield part


def pages() -> list[Path]:
    """Every page of the documentation, except pages of samples that have tests of their own."""
    others = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "samples/trtexec.md")
    return [*(ROOT / name for name in others), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    """Yields the blocks of a page."""
    lines = text.splitlines()
    number, rule = 0, ""
    while number < len(lines):
        line = lines[number]
        if found := re.fullmatch(r"<!-- run: (.*) -->", line.strip()):
            rule = found[1]
            number += 1
            continue
        if found := re.fullmatch(r"( *)```(\w+)", line):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            inner = "\n".join(part.removeprefix(found[1]) for part in lines[number + 1 : end])
            yield Block(found[2], inner, number + 1, rule)
            number, rule = end + 1, ""
            continue
        if line.startswith("    ") and not lines[number - 1].strip() and number:
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            inner = "\n".join(part[4:] for part in lines[number:end]).rstrip()
            if inner.split()[0].partition("=")[0] in PROGRAMS:
                yield Block("sh", inner, number + 1, rule)
            number, rule = end, ""
            continue
        if line.strip():
            rule = ""
        number += 1


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set[str]()
    for title in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def links(text: str) -> Iterator[str]:
    """Yields the targets of all links and pictures outside of code."""
    prose = re.sub(r"```.*?^ *```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\(([^)\s]+)\)", prose)


def commands_in_prose(text: str) -> Iterator[str]:
    """Yields the calls of patch-compile in sentences, without `…`; calls with brackets are grammar."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for found in re.findall(r"`(patch-compile [^`]*)`", re.sub(r"\s*\n\s*", " ", prose)):
        if not re.search(r"[\[\]<>]", found):
            yield found.replace("…", "")
