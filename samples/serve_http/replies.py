"""Answers in OpenAI's format: whole, or in chunks as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from patch_compile import Finish, Piece
from samples.serve_http.protocol import ChatRequest, GenerationRequest

JsonObject = dict[str, Any]
_SPACE = "▁"  # begins a word in vocabularies of SentencePiece
_PART = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is a part of a character


def event(data: JsonObject) -> bytes:
    """Returns a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Reply:
    """The bodies of one answer. model: the server's name for it; prompt_tokens: each prompt counts once, whatever `n` is."""

    def __init__(
        self, asked: GenerationRequest, model: str, rows: int, prompt_tokens: int, tokenizer: Any
    ) -> None:
        self._chat, self._rows, self._tokenizer = isinstance(asked, ChatRequest), rows, tokenizer
        self._show_usage = asked.stream_options is not None and asked.stream_options.include_usage
        self._logprobs = asked.asked_logprobs is not None
        self._offsets: defaultdict[int, int] = defaultdict(int)  # row → characters of its tokens so far
        self._prompt_tokens, self._new_tokens = prompt_tokens, 0
        key = f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._head = {"id": key, "created": int(time.time()), "model": model}

    async def whole(self, pieces: AsyncIterator[Piece]) -> JsonObject:
        """Returns the body with all choices."""
        rows = [list[Piece]() for _ in range(self._rows)]
        async for piece in pieces:
            self._new_tokens += 1
            rows[piece.row].append(piece)
        kind = "chat.completion" if self._chat else "text_completion"
        choices = []
        for row, of_row in enumerate(rows):
            said = self._said("message", "".join(piece.text for piece in of_row))
            finish = of_row[-1].finish if of_row else None
            choices.append(self._choice(row, said, finish or Finish.LENGTH, of_row))
        return self._head | {"object": kind, "choices": choices, "usage": self._usage()}

    async def events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        """Yield the events of a stream, the first event with the first token. The events of a chat begin with the role."""
        async for piece in pieces:
            if self._chat and not self._new_tokens:
                for row in range(self._rows):
                    yield self._chunk(self._choice(row, self._said("delta", ""), None))
            self._new_tokens += 1
            if piece.text or piece.finish or self._logprobs:
                said: JsonObject = {"text": piece.text}
                if self._chat:
                    said = {"delta": {"content": piece.text} if piece.text else {}}
                yield self._chunk(self._choice(piece.row, said, piece.finish, [piece]))
        if self._show_usage:
            yield self._chunk(usage=self._usage())

    def _said(self, name: str, text: str) -> JsonObject:
        return {name: {"role": "assistant", "content": text}} if self._chat else {"text": text}

    def _choice(
        self, row: int, said: JsonObject, finish: Finish | None, pieces: Sequence[Piece] = ()
    ) -> JsonObject:
        logprobs = self._logprobs_of(pieces) if self._logprobs and pieces else None
        return {"index": row, **said, "logprobs": logprobs, "finish_reason": finish}

    def _chunk(self, *choices: JsonObject, usage: JsonObject | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        # If the last chunk has the usage, all others have it as null.
        body = self._head | {"object": kind, "choices": choices}
        return event(body | {"usage": usage} if self._show_usage else body)

    def _usage(self) -> JsonObject:
        prompt, new = self._prompt_tokens, self._new_tokens
        return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}

    def _logprobs_of(self, pieces: Sequence[Piece]) -> JsonObject:
        """Returns the object `logprobs` of a choice for the next pieces of a row."""
        if self._chat:
            return {
                "content": [
                    self._entry(p.token, p.logprob) | {"top_logprobs": [self._entry(*top) for top in p.top]}
                    for p in pieces
                ]
            }
        texts = [self._text(piece.token) for piece in pieces]
        offsets = []
        for piece, text in zip(pieces, texts, strict=True):
            offsets.append(self._offsets[piece.row])
            self._offsets[piece.row] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [piece.logprob for piece in pieces],
            "top_logprobs": [{self._text(token): value for token, value in piece.top} for piece in pieces],
            "text_offset": offsets,
        }

    def _entry(self, token: int, value: float | None) -> JsonObject:
        text = self._text(token)
        return {"token": text, "logprob": value, "bytes": None if _PART in text else list(text.encode())}

    def _text(self, token: int) -> str:
        """Returns a token's text; "" for a row that pads the model's vocabulary, for which the tokenizer has no token."""
        spelled: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        space = " " if spelled.startswith(_SPACE) else ""  # which the text of a single token lacks
        return space + str(self._tokenizer.decode([token])).removeprefix(space)
