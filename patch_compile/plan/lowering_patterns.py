"""How each linear is asked to be compiled: `--lowering`, one for all linears or by pattern.

Spelled `auto`, `plugin`, `split` or `dense`, or `PATTERN=LOWERING,…` such as `mlp.*=plugin,*.v_proj=dense`, with the
patterns of `--ratio` (`masklearn.masks.budget`): the last that fits a linear decides. Linears that none fits are `auto`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from masklearn.masks.budget import fits
from masklearn.masks.names import kinds_of
from patch_compile.errors import PatchCompileError

__all__ = ["AUTO", "Asked", "asked_lowerings", "parse_lowering"]

Asked = Literal["auto", "plugin", "split", "dense"]
AUTO: Asked = "auto"

# A regular expression (re:…) may hold commas and equals signs: an entry ends where a comma follows a whole word.
_ENTRY = re.compile(r"\s*(?:(.+?)\s*=)?\s*([\w-]+)\s*(?:,(?=.)|$)")


def parse_lowering(text: str) -> str:
    """The text, once it is found correct. ValueError in one line when it is not."""
    list(_entries(text))
    return text


def asked_lowerings(text: str, names: Sequence[str]) -> dict[str, Asked]:
    """What is asked of each linear. PatchCompileError for a pattern that fits none, or that decides for none because later
    ones do.
    """
    entries = list(_entries(text))
    decided: dict[str, tuple[str, Asked]] = dict.fromkeys(names, ("", AUTO))
    for pattern, lowering in entries:
        fitting = [name for name in names if fits(name, pattern)]
        if pattern and not fitting:
            raise PatchCompileError(
                f"the pattern {pattern!r} of --lowering fits no covered linear",
                f"covered are {', '.join(kinds_of(names))}",
                "a glob fits a name or its end from any dot on: v_proj, mlp.*; or write re: and an expression",
            )
        decided |= dict.fromkeys(fitting, (pattern, lowering))
    for pattern, lowering in entries:
        if pattern and (pattern, lowering) not in decided.values():
            raise PatchCompileError(
                f"the pattern {pattern!r} of --lowering decides for no linear",
                "later patterns fit all linears that it fits, and the last one decides",
                "write the general pattern before the particular one",
            )
    return {name: lowering for name, (_, lowering) in decided.items()}


def _entries(text: str) -> Iterator[tuple[str, Asked]]:
    """(pattern, lowering) in the order spelled; the pattern is empty for all linears, which stands alone."""
    at = 0
    while at < len(text) or at == 0:
        entry = _ENTRY.match(text, at)
        if entry is None or (entry[1] is None and entry[0] != text):
            raise ValueError(
                f"{text[at:].strip()!r} is not PATTERN=LOWERING; give one lowering, or PATTERN=LOWERING,…"
            )
        yield _checked_pattern(entry[1] or ""), _lowering(entry[2])
        at = entry.end()


def _lowering(spelled: str) -> Asked:
    for known in get_args(Asked):
        if spelled == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"{spelled!r} is no lowering: it is one of {', '.join(get_args(Asked))}")


def _checked_pattern(pattern: str) -> str:
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return pattern
