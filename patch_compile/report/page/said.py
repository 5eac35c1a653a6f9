"""Shows the results of both models on tasks, and the texts that both generate, with differing words marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from patch_compile.report.page.sources import Row, Sources

__all__ = ["differing_words", "said"]

_WORDS = re.compile(r"\s*\S+|\s+$")  # a word with the space before it


def said(sources: Sources) -> dict[str, Any] | None:
    """Returns {tasks, texts}, or None if there is neither.

    A text is {prompt, same, dense, pruned}. The last two are lists of (words, True if they differ) in order.
    """
    tasks = (sources.verify or {}).get("tasks")
    texts = [_text(one) for one in _generated(sources)]
    return {"tasks": _tasks(tasks) if tasks else None, "texts": texts} if tasks or texts else None


def differing_words(before: str, after: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Returns both texts as runs of words, with True for runs that the other text does not have in that place.

    The runs of a text joined are the text.
    """
    a, b = _WORDS.findall(before), _WORDS.findall(after)
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    for what, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if i < j:
            left.append(("".join(a[i:j]), what != "equal"))
        if k < m:
            right.append(("".join(b[k:m]), what != "equal"))
    return left, right


def _generated(sources: Sources) -> Iterator[Row]:
    """Yield the generated texts of `verify`, and that of the build unless `verify` was given its prompt too."""
    of_verify = (sources.verify or {}).get("generated") or []
    built = sources.report.get("generated")
    if built and built["prompt"] not in [one["prompt"] for one in of_verify]:
        yield {"prompt": built["prompt"], "dense": built["dense"], "pruned": built["hybrid"]}
    yield from of_verify


def _text(one: Row) -> dict[str, Any]:
    dense, pruned = differing_words(one["dense"], one["pruned"])
    tokens = (
        f"the first {one['same_tokens']} of {one['tokens']} tokens are the same" if "tokens" in one else ""
    )
    same = one["dense"] == one["pruned"]
    return {"prompt": one["prompt"], "dense": dense, "pruned": pruned, "same": same, "tokens": tokens}


def _tasks(tasks: Row) -> dict[str, Any]:
    where = {"hf": "transformers", "onnx": "ONNX Runtime"}.get(tasks["backend"], tasks["backend"])
    return {"rows": tasks["rows"], "how": f"{tasks['harness']} on {where}", "notes": tasks["notes"]}
