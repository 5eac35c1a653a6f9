"""Answers in OpenAI's format: whole, or in chunks as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from typing import Any

from patch_compile import Piece
from samples.serve_http.protocol import ChatRequest, GenerationRequest

JsonObject = dict[str, Any]
_SPACE = "▁"  # begins a word in vocabularies of SentencePiece
_PART = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is a part of a character


def _json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def event(data: JsonObject | str) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + (data.encode() if isinstance(data, str) else _json(data)) + b"\n\n"


class Reply:
    """The answer to a request. model: the server's name for it; prompt_tokens: their number."""

    def __init__(self, asked: GenerationRequest, model: str, prompt_tokens: int, tokenizer: Any) -> None:
        self._chat, self._asked, self._tokenizer = isinstance(asked, ChatRequest), asked, tokenizer
        self._prompt_tokens, self._new_tokens, self._characters = prompt_tokens, 0, 0
        key = f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._head = {"id": key, "created": int(time.time()), "model": model}

    def parts(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        """Yield the events of a stream, or the whole body."""
        return self._events(pieces) if self._asked.stream else self._whole(pieces)

    async def _whole(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        every = [piece async for piece in pieces]
        self._new_tokens, text = len(every), "".join(piece.text for piece in every)
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        kind = "chat.completion" if self._chat else "text_completion"
        yield _json(
            self._head | {"object": kind, "choices": [self._choice(said, every)], "usage": self._usage()}
        )

    async def _events(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        role = {"role": "assistant"}  # of the first event of a chat
        async for piece in pieces:
            self._new_tokens += 1
            said = {"delta": role | {"content": piece.text}} if self._chat else {"text": piece.text}
            yield self._chunk(self._choice(said, [piece]))
            role = {}
        if self._asked.stream_options.include_usage:
            yield self._chunk(usage=self._usage())

    def _chunk(self, *choices: JsonObject, usage: JsonObject | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        body = self._head | {"object": kind, "choices": choices}
        # If the last chunk has the usage, all others have it as null.
        return event(body | {"usage": usage} if self._asked.stream_options.include_usage else body)

    def _choice(self, said: JsonObject, pieces: Sequence[Piece]) -> JsonObject:
        asked = self._asked.asked_logprobs is not None and pieces
        logprobs = self._logprobs_of(pieces) if asked else None
        finish = pieces[-1].finish if pieces else None
        return {"index": 0, **said, "logprobs": logprobs, "finish_reason": finish}

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
        offsets = list(accumulate(map(len, texts), initial=self._characters))
        self._characters = offsets.pop()
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
