"""The built-in task that every build of a decoder runs: short texts whose last word the model is to find.

Items and score are the same as in `builtin-continuation`, which lm-evaluation-harness runs for `verify`. A build does
not need the harness, and asks fewer items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from patch_compile.artifacts.task_scores import TaskDifference, TaskRow, TaskScores
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.verification.tasks.rows import mean_with_error

TASK = "builtin-continuation"
_ITEMS = Path(__file__).parent / "builtin/continuation.jsonl"
# Two models answer 32 items in 4.3 s on two cores (SmolLM2-135M, 722 tokens, ONNX Runtime 1.27, Xeon with AVX512).
_ASKED = 32
_ROWS = 8  # texts in a batch
_KNOWS = 2.0  # standard errors above 0 from which a model is taken to know any answer


@dataclass(frozen=True)
class LastWord:
    """A text. tokens: its token ids; first: place of the first token of the last word."""

    tokens: list[int]
    first: int


def last_words(tokenizer: Any, longest: int | None) -> list[LastWord]:
    """Returns the first texts of the task that the tokenizer can spell. longest: number of tokens that the model can read,
    None for any number."""
    lines = _ITEMS.read_text(encoding="utf-8").splitlines()[:_ASKED]
    found = []
    for text in (json.loads(line)["text"] for line in lines):
        before, whole = (tokenizer(part)["input_ids"] for part in (text.rpartition(" ")[0], text))
        fits = len(before) < len(whole) and (longest is None or len(whole) <= longest)
        if fits and tokenizer.unk_token_id not in whole:
            found.append(LastWord(whole, len(before)))
    return found


def right_words(decoder: OnnxDecoder, items: Sequence[LastWord]) -> list[bool]:
    """Returns for each text whether every token of its last word is the model's most likely token. The decoder gives
    logits of all positions."""
    order = sorted(
        range(len(items)), key=lambda i: len(items[i].tokens)
    )  # texts of a batch have similar lengths
    batches = (order[first : first + _ROWS] for first in range(0, len(order), _ROWS))
    right = dict(pair for batch in batches for pair in _batch_right(decoder, items, batch))
    return [right[i] for i in range(len(items))]


def _batch_right(
    decoder: OnnxDecoder, items: Sequence[LastWord], batch: Sequence[int]
) -> Iterator[tuple[int, bool]]:
    ids = np.zeros((len(batch), max(len(items[i].tokens) for i in batch) - 1), np.int64)
    for row, i in enumerate(batch):  # padding comes after a text, so its tokens never attend to it
        ids[row, : len(items[i].tokens) - 1] = items[i].tokens[:-1]
    likely = decoder.step(ids, decoder.empty_cache(len(batch)))[0].argmax(axis=-1)
    for row, i in enumerate(batch):
        word = items[i].tokens[items[i].first :]
        end = len(items[i].tokens) - 1
        yield i, likely[row, end - len(word) : end].tolist() == word


def scores_of(dense: Sequence[bool], pruned: Sequence[bool], *, chat_template: bool) -> TaskScores | None:
    """Returns the scores, or None if the dense model knows no answer, as a model of random weights does.

    Its score must be more than two standard errors above 0.
    """
    if len(dense) < 2:
        return None
    (before, error), (after, pruned_error) = mean_with_error(dense), mean_with_error(pruned)
    if before <= _KNOWS * error:
        return None
    change, of_change = mean_with_error(np.subtract(pruned, dense, dtype=np.float64))
    row = TaskRow(
        task=TASK,
        metric="acc",
        filter=None,
        dense=before,
        pruned=after,
        dense_stderr=error,
        pruned_stderr=pruned_error,
        samples=len(dense),
        difference=TaskDifference(value=change, error=of_change, per_item=True),
    )
    version = metadata.version("patch-compile")
    return TaskScores(
        harness=f"patch-compile {version}",
        backend="onnx",
        rows=(row,),
        chat_template=chat_template,
        limit=_ASKED,
        cut=(TASK,),
    )
