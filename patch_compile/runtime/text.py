"""Tokens back to text, piece by piece: a character of several tokens is held back until it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TextStream"]


class TextStream:
    """The text of one continuation, up to the stop string that is whole first, which is not part of it.

    `ended` says that a stop string was met. What could be the beginning of one is held back.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer.backend_tokenizer
        # The tokens before decide whether a piece begins with a space.
        self._stream = DecodeStream(list(prompt[-_BEFORE:]), skip_special_tokens=True)
        self._stop = [text for text in stop if text]
        self._held = ""
        self.ended = False

    def add(self, token: int) -> str:
        """Take a token; returns the text that is certain now, nothing after the end."""
        if self.ended:
            return ""
        self._held += self._stream.step(self._tokenizer, token) or ""
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self._release(min(found)[1], drop=True)
        return self._release(len(self._held) - self._overlap())

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        return self._release(len(self._held))

    def _overlap(self) -> int:
        """Characters at the end that begin a stop string."""
        lengths = (n for stop in self._stop for n in range(1, len(stop)) if self._held.endswith(stop[:n]))
        return max(lengths, default=0)

    def _release(self, count: int, drop: bool = False) -> str:
        text, self._held = self._held[:count], "" if drop else self._held[count:]
        return text


_BEFORE = 4
