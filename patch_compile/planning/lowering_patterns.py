"""Parses `--lowering`: one lowering for all linears, or lowerings by pattern.

The text is `auto`, `plugin`, `split` or `dense`, or `PATTERN=LOWERING,…` such as `mlp.*=plugin,v_proj=dense`, with the
patterns of `masklearn.masks.name_globs`. The last pattern that matches a linear decides. Linears without a match are `auto`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from masklearn.masks.name_globs import decide, parse_pairs

__all__ = ["AUTO", "Asked", "asked_lowerings", "parse_lowering"]

Asked = Literal["auto", "plugin", "split", "dense"]
AUTO: Asked = "auto"


def parse_lowering(text: str) -> str:
    """Returns the text if it is valid. Raises ValueError with a one-line message if it is not."""
    _pairs(text)
    return text


def asked_lowerings(text: str, names: Sequence[str]) -> dict[str, Asked]:
    """Returns the lowering that is asked of each linear.

    Raises PatchCompileError for a pattern that matches no linear, or that later patterns override everywhere.
    """
    decided = decide(_pairs(text), names, "--lowering")
    return {name: AUTO if decision is None else decision[1] for name, decision in decided.items()}


def _pairs(text: str) -> list[tuple[str, Asked]]:
    """Returns (pattern, lowering) pairs in their order. A lone lowering for all linears has the pattern ""."""
    if text.strip() and "=" not in text and "," not in text:
        return [("", _lowering(text.strip()))]
    return [(pattern, _lowering(spelled)) for pattern, spelled in parse_pairs(text, "LOWERING")]


def _lowering(spelled: str) -> Asked:
    for known in get_args(Asked):
        if spelled == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"{spelled!r} is no lowering. It is one of {', '.join(get_args(Asked))}.")
