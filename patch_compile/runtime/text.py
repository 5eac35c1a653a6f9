"""Turns tokens into text as they come. A character of several tokens is held back until it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TextStream"]


class TextStream:
    """Text of one continuation, which ends before the stop string that is complete first.

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
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.ended = True
            return self._release(min(found)[1], drop=True)
        return self._release(len(self._held) - self._overlap())

    def finish(self) -> str:
        """Returns the text that is still held back, when there are no more tokens."""
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
