"""Log probabilities of tokens in OpenAI's two formats: that of chats, and that of completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from patch_compile import Piece

__all__ = ["Logprobs"]

_SPACE = "▁"  # begins a word in vocabularies of SentencePiece
_PART = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is a part of a character


class Logprobs:
    """Formats the log probabilities of one answer. chat: in the format of chats. Completions count the text so far."""

    def __init__(self, tokenizer: Any, *, chat: bool) -> None:
        self._tokenizer, self._chat = tokenizer, chat
        self._offsets: defaultdict[int, int] = defaultdict(int)  # row → characters of its tokens so far

    def body(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Returns the object `logprobs` of a choice for the next pieces of a row."""
        if self._chat:
            return {"content": [self._content(piece) for piece in pieces]}
        texts = [self._text(piece.token) for piece in pieces]
        return {
            "tokens": texts,
            "token_logprobs": [piece.logprob for piece in pieces],
            "top_logprobs": [{self._text(token): value for token, value in piece.top} for piece in pieces],
            "text_offset": [self._offset(piece.row, text) for piece, text in zip(pieces, texts, strict=True)],
        }

    def _content(self, piece: Piece) -> dict[str, Any]:
        assert piece.logprob is not None
        top = [self._entry(token, value) for token, value in piece.top]
        return self._entry(piece.token, piece.logprob) | {"top_logprobs": top}

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": value, "bytes": None if _PART in text else list(text.encode())}

    def _text(self, token: int) -> str:
        spelled: str = self._tokenizer.convert_ids_to_tokens(token)
        space = " " if spelled.startswith(_SPACE) else ""  # which the text of a single token lacks
        return space + str(self._tokenizer.decode([token])).removeprefix(space)

    def _offset(self, row: int, text: str) -> int:
        offset = self._offsets[row]
        self._offsets[row] += len(text)
        return offset
