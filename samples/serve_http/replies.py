"""Response bodies in OpenAI's format, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from patch_compile import Finish, Piece
from samples.serve_http.logprobs import Logprobs

__all__ = ["Reply", "Usage"]

JsonObject = dict[str, Any]


@dataclass
class Usage:
    """Numbers of tokens. Each prompt counts once, however often it is continued (`n`)."""

    prompt_tokens: int
    completion_tokens: int = 0

    def body(self) -> JsonObject:
        """Returns the `usage` object of an answer."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True)
class Reply:
    """Builds the bodies of one answer with `rows` choices. show_usage: every chunk has the key `usage`, as in OpenAI's;
    logprobs: formats log probabilities, None if none are asked for."""

    chat: bool
    model: str
    rows: int
    show_usage: bool = False
    logprobs: Logprobs | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, pieces: list[list[Piece]], usage: Usage) -> JsonObject:
        """Returns the body with all choices. pieces: those of each row."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._whole_choice(row, of_row) for row, of_row in enumerate(pieces)]
        return self._envelope(kind, choices) | {"usage": usage.body()}

    def openings(self) -> Iterator[JsonObject]:
        """Yields the chunks before the first text: those of a chat contain the role."""
        if self.chat:
            for row in range(self.rows):
                yield self._chunk(self._choice(row, self._said("delta", ""), None))

    def chunk(self, piece: Piece) -> JsonObject | None:
        """Returns the chunk for a piece, None for a piece without text and finish."""
        if not piece.text and not piece.finish and self.logprobs is None:
            return None
        said = {"delta": {"content": piece.text} if piece.text else {}} if self.chat else {"text": piece.text}
        return self._chunk(self._choice(piece.row, said, piece.finish, [piece]))

    def usage_chunk(self, usage: Usage) -> JsonObject:
        """Returns the chunk that follows the last text."""
        return self._chunk() | {"usage": usage.body()}

    def _said(self, name: str, text: str) -> JsonObject:
        return {name: {"role": "assistant", "content": text}} if self.chat else {"text": text}

    def _whole_choice(self, row: int, pieces: list[Piece]) -> JsonObject:
        text, finish = "".join(piece.text for piece in pieces), pieces[-1].finish if pieces else None
        return self._choice(row, self._said("message", text), finish or Finish.LENGTH, pieces)

    def _choice(
        self, row: int, said: JsonObject, finish: Finish | None, pieces: Sequence[Piece] = ()
    ) -> JsonObject:
        logprobs = self.logprobs.body(pieces) if self.logprobs and pieces else None
        return {"index": row, **said, "logprobs": logprobs, "finish_reason": finish}

    def _chunk(self, *choices: JsonObject) -> JsonObject:
        body = self._envelope("chat.completion.chunk" if self.chat else "text_completion", list(choices))
        return body | {"usage": None} if self.show_usage else body

    def _envelope(self, kind: str, choices: list[JsonObject]) -> JsonObject:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.key}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
