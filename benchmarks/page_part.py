"""Renews the part of a page that a program writes, between its two marks."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path


def print_or_renew(
    argv: Sequence[str] | None, description: str | None, name: str, part: Callable[[], str]
) -> int:
    """Run a program that prints the part of this name, or with `--page FILE` renews it there. Returns its exit code.

    argv: the arguments, None for the arguments of this process; description: for `--help`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="renew its generated part, and print nothing")
    asked = parser.parse_args(argv)
    if asked.page:
        asked.page.write_text(renewed(asked.page.read_text(), name, part()))
    else:
        print(part())
    return 0


def renewed(page: str, name: str, part: str) -> str:
    """Returns the page with the part of this name replaced. Raises ValueError when a mark is missing."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page lacks {begin} or {end}")
    return f"{before}{begin}\n{part}\n{end}{after}"
