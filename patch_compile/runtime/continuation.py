"""The prompts of one request while they are continued: chooses their tokens and makes text of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from patch_compile.runtime.decoder import Logits, Tokens
from patch_compile.runtime.sampling import Sampler, Sampling


class TextStream:
    """Text of a continuation, which ends before the first complete stop string.

    Text that may be the beginning of a stop string is held back. `ended` is True once a stop string is complete.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer.backend_tokenizer
        # The preceding tokens decide if a piece of text begins with a space.
        self._stream = DecodeStream(list(prompt[-_BEFORE:]), skip_special_tokens=True)
        self._stop = [text for text in stop if text]
        self._held = ""
        self.ended = False

    def add(self, token: int) -> str:
        """Add a token. Returns the text that is final now, and "" after a stop string."""
        if self.ended:
            return ""
        self._held += self._stream.step(self._tokenizer, token) or ""
        ends = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self.ended = True
            return self._release(min(ends)[1], drop=True)
        return self._release(len(self._held) - self._overlap())

    def finish(self) -> str:
        """Returns the text that is still held back after the last token."""
        return self._release(len(self._held))

    def _overlap(self) -> int:
        """Returns the number of characters at the end that may begin a stop string."""
        most = len(self._held)
        lengths = (
            n
            for stop in self._stop
            for n in range(1, min(len(stop), most + 1))
            if self._held.endswith(stop[:n])
        )
        return max(lengths, default=0)

    def _release(self, count: int, drop: bool = False) -> str:
        text, self._held = self._held[:count], "" if drop else self._held[count:]
        return text


_BEFORE = 4


class Finish(StrEnum):
    """Reason for the end of a continuation: an end token or a stop string (STOP), or the number of tokens (LENGTH)."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Piece:
    """One token of the continuation of prompt `row`.

    text: the text that has become final with this token, often empty; finish: set in the last piece of a row; logprob:
    log probability of the token before penalties and temperature, if it was asked for; top: the most likely tokens with
    theirs.
    """

    row: int
    token: int
    text: str
    finish: Finish | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Continuation:
    """The rows of one batch.

    prompts: token ids of each row; new_tokens: most tokens per row; stop: strings that end a row; end: ids that end a
    row; logprobs: number of most likely tokens whose log probabilities each piece has in addition to its own, None for no
    log probabilities; tokenizer: a fast tokenizer of transformers.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        tokenizer: Any,
        sampling: Sampling,
        new_tokens: int,
        stop: Sequence[str],
        end: frozenset[int],
        logprobs: int | None = None,
    ) -> None:
        self.prompts, self.new_tokens = [list(prompt) for prompt in prompts], new_tokens
        self._sampler, self._end = Sampler(sampling, self.prompts), end
        self._texts = [TextStream(tokenizer, prompt, stop) for prompt in self.prompts]
        self._running = list(range(len(self.prompts)))
        self._count = 0
        self._logprobs = logprobs

    @property
    def ended(self) -> bool:
        return not self._running

    def choose(self, logits: Logits) -> tuple[Tokens, list[Piece]]:
        """Returns the next token of every row, and a piece for each row that had not ended. logits: `[rows, vocabulary]`.

        Raises LogitsError for logits that are not finite.
        """
        self._count += 1
        tokens = self._sampler.choose(logits)
        pieces = [
            self._with_logprobs(self._piece(row, int(tokens[row])), logits[row]) for row in self._running
        ]
        self._running = [piece.row for piece in pieces if not piece.finish]
        return tokens, pieces

    def _with_logprobs(self, piece: Piece, logits: Logits) -> Piece:
        if self._logprobs is None:
            return piece
        values = logits.astype(np.float64) - logits.max()
        values -= np.log(np.exp(values).sum())
        most = np.argsort(-values, kind="stable")[: self._logprobs]
        top = tuple((int(token), float(values[token])) for token in most)
        return replace(piece, logprob=float(values[piece.token]), top=top)

    def _piece(self, row: int, token: int) -> Piece:
        text = self._texts[row]
        if token in self._end:
            return Piece(row, token, text.finish(), Finish.STOP)
        new = text.add(token)
        if text.ended:
            return Piece(row, token, new, Finish.STOP)
        if self._count == self.new_tokens:
            return Piece(row, token, new + text.finish(), Finish.LENGTH)
        return Piece(row, token, new)
