"""Renews the part of a page that a program writes, between its two marks."""

__all__ = ["renewed"]


def renewed(page: str, name: str, part: str) -> str:
    """Returns the page with the part of this name replaced. Raises ValueError when a mark is missing."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page lacks {begin} or {end}")
    return f"{before}{begin}\n{part}\n{end}{after}"
