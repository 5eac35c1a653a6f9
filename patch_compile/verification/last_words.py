"""Short texts whose last word a model is to find: the task that every build of a decoder runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from masklearn.model.pretrained import token_ids
from patch_compile.artifacts.proof import LastWords
from patch_compile.runtime.decoder import Logits, Tokens

_ITEMS = Path(__file__).with_suffix(".jsonl")
_ROWS = 8  # texts in a batch
_KNOWS = 2.0  # standard errors above 0 from which a model is taken to know any answer


@dataclass(frozen=True)
class LastWord:
    """A text. tokens: its token ids; first: place of the first token of the last word."""

    tokens: list[int]
    first: int


def last_words(tokenizer: Any, longest: int | None) -> list[LastWord]:
    """Returns the texts of the task that the tokenizer can spell. longest: number of tokens that the model can read,
    None for any number."""
    lines = _ITEMS.read_text(encoding="utf-8").splitlines()
    texts = []
    for text in (json.loads(line)["text"] for line in lines):
        before, whole = (token_ids(tokenizer, part) for part in (text.rpartition(" ")[0], text))
        fits = len(before) < len(whole) and (longest is None or len(whole) <= longest)
        if fits and tokenizer.unk_token_id not in whole:
            texts.append(LastWord(whole, len(before)))
    return texts


def right_words(model: Callable[[Tokens], Logits], items: Sequence[LastWord]) -> list[bool]:
    """Returns for each text whether every token of its last word is the model's most likely token.

    model: returns the logits of all positions, fp32 `[batch, sequence, vocabulary]`.
    """
    # Texts of a batch have similar lengths.
    order = sorted(range(len(items)), key=lambda i: len(items[i].tokens))
    batches = (order[first : first + _ROWS] for first in range(0, len(order), _ROWS))
    right = dict(pair for batch in batches for pair in _batch_right(model, items, batch))
    return [right[i] for i in range(len(items))]


def _batch_right(
    model: Callable[[Tokens], Logits], items: Sequence[LastWord], batch: Sequence[int]
) -> Iterator[tuple[int, bool]]:
    ids = np.zeros((len(batch), max(len(items[i].tokens) for i in batch) - 1), np.int64)
    for row, i in enumerate(batch):  # padding comes after a text, so its tokens never attend to it
        ids[row, : len(items[i].tokens) - 1] = items[i].tokens[:-1]
    likely = model(ids).argmax(axis=-1)
    for row, i in enumerate(batch):
        word = items[i].tokens[items[i].first :]
        end = len(items[i].tokens) - 1
        yield i, likely[row, end - len(word) : end].tolist() == word


def compare_words(dense: Sequence[bool], pruned: Sequence[bool]) -> LastWords | None:
    """Returns the shares of right words, or None if the dense model knows no answer, as a model of random weights does.

    Its share must be more than two standard errors above 0.
    """
    if len(dense) < 2 or np.mean(dense) <= _KNOWS * _error(dense):
        return None
    error = _error(np.subtract(pruned, dense, dtype=np.float64))
    return LastWords(
        texts=len(dense), dense=float(np.mean(dense)), pruned=float(np.mean(pruned)), error=error
    )


def _error(values: ArrayLike) -> float:
    """Returns the standard error of a mean."""
    array = np.asarray(values, np.float64)
    return float(array.std(ddof=1) / math.sqrt(array.size))
