"""Shows the results of both models on tasks, and the texts that both generate, with differing words marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from patch_compile.artifacts.proof import Sentence
from patch_compile.artifacts.verify_schema import GeneratedText
from patch_compile.report.page.page_data import Sources
from patch_compile.report.quality import tasks as task_scores

__all__ = ["differing_words", "said"]

_WORDS = re.compile(r"\s*\S+|\s+$")  # a word with the space before it


def said(sources: Sources) -> dict[str, Any] | None:
    """Returns {tasks, texts}, or None if there is neither.

    A text is {prompt, same, dense, pruned}. The last two are lists of (words, True if they differ) in order.
    """
    tasks = task_scores(sources.verify.tasks if sources.verify else None)
    texts = [_text(*one) for one in _generated(sources)]
    return {"tasks": tasks, "texts": texts} if tasks.title or texts else None


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


def _generated(sources: Sources) -> Iterator[tuple[Sentence | GeneratedText, str]]:
    """Yield the generated texts of `verify`, and that of the build unless `verify` was given its prompt too, each with
    the pruned model's continuation."""
    of_verify = sources.verify.generated if sources.verify else ()
    built = sources.sentence
    if built and built.prompt not in [one.prompt for one in of_verify]:
        yield built, built.hybrid
    yield from ((one, one.pruned) for one in of_verify)


def _text(one: Sentence | GeneratedText, after: str) -> dict[str, Any]:
    dense, pruned = differing_words(one.dense, after)
    tokens = (
        f"the first {one.same_tokens} of {one.tokens} tokens are the same"
        if isinstance(one, GeneratedText)
        else ""
    )
    return {
        "prompt": one.prompt,
        "dense": dense,
        "pruned": pruned,
        "same": one.dense == after,
        "tokens": tokens,
    }
