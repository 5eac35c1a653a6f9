"""Continues prompts token by token with any `Decoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Generator as Stream
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from masklearn.model.pretrained import token_ids
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.runtime.continuation import Continuation, Finish, Piece
from patch_compile.runtime.decoder import Decoder, pad_left
from patch_compile.runtime.sampling import Sampling

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Completion:
    """A whole continuation; `tokens` are its ids, the end token included."""

    text: str
    tokens: list[int]
    prompt_tokens: int
    finish: Finish


class Generator:
    """Continues prompts. Several threads may share a Generator.

    decoder: see `Decoder`; tokenizer: a fast tokenizer of transformers; end_tokens: ids that end a text; sampling:
    default of the calls; note: added to the decoder's name in `about`.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        end_tokens: frozenset[int] = frozenset(),
        sampling: Sampling | None = None,
        note: str = "",
    ) -> None:
        self.decoder = decoder
        self.about = f"{decoder.name} ({note})" if note else decoder.name
        self.tokenizer = tokenizer
        self.end_tokens = end_tokens
        self.sampling = sampling or Sampling()

    def encode(self, prompt: Prompt) -> list[int]:
        """Returns the token ids of a text, with the tokenizer's special tokens. Ids are returned unchanged.

        Raises PatchCompileError for an empty prompt, for ids outside the vocabulary and for text that is not valid Unicode.
        """
        try:
            ids = token_ids(self.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        except TypeError:  # the tokenizer's error for half a surrogate pair
            raise UsageError(
                "The prompt is not text", "It can't be written as UTF-8.", "Give it in UTF-8."
            ) from None
        if not ids:
            raise UsageError("The prompt is empty", "There is nothing to continue.", "Give some text.")
        tokens = len(self.tokenizer)
        if not 0 <= min(ids) <= max(ids) < tokens:
            raise PatchCompileError(
                f"The prompt has token ids from {min(ids)} to {max(ids)}",
                f"The tokenizer's are 0 to {tokens - 1}.",
                "Give ids of this model's tokenizer.",
            )
        return ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Returns the token ids of a conversation in the model's chat template, up to the beginning of the answer.

        messages: dicts with `role` and `content`. Raises PatchCompileError when the model has no template and when the
        template rejects the messages.
        """
        if not self.tokenizer.chat_template:
            raise PatchCompileError(
                "The model has no chat template",
                "It was not trained for conversations, or its tokenizer_config.json lacks the template.",
                "Give a plain prompt.",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # a template is a program of the model's authors, and may fail in any way
            why = str(error) or type(error).__name__
            raise PatchCompileError(
                "The chat template refuses the conversation", why, "Give a plain prompt."
            ) from None
        # The template has already written the tokens that begin a text.
        return self.encode(token_ids(self.tokenizer, text, add_special_tokens=False))

    def stream(
        self,
        prompts: str | Sequence[Prompt],
        sampling: Sampling | None = None,
        *,
        new_tokens: int = 128,
        stop: str | Sequence[str] = (),
        ignore_end: bool = False,
        logprobs: int | None = None,
    ) -> Stream[Piece, None, None]:
        """Continue all prompts as one batch, and yield a piece for each token of each unfinished row.

        Closing the iterator ends the generation.

        prompts: texts or token ids; a single text is one prompt; new_tokens: most tokens per row; stop: a text, or several,
        before which a row ends; ignore_end: ignore end tokens and generate
        `new_tokens` tokens, for measurements of time; logprobs: see `Continuation`.

        Raises PatchCompileError, before anything runs, for an empty prompt and for input above the decoder's limits.
        """
        ids, stop = self._encoded(prompts), (stop,) if isinstance(stop, str) else stop
        if not ids or new_tokens < 1:
            raise UsageError(
                "There is nothing to generate",
                f"{len(ids)} prompts and {new_tokens} new tokens are asked for.",
                "Give at least one of each.",
            )
        self.decoder.limits.check(len(ids), max(map(len, ids)), new_tokens)
        end = frozenset[int]() if ignore_end else self.end_tokens
        return self._stream(
            Continuation(ids, self.tokenizer, sampling or self.sampling, new_tokens, stop, end, logprobs)
        )

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        *args: Any,
        each: Callable[[Piece], object] = lambda _: None,
        **settings: Any,
    ) -> list[Completion]:
        """Returns a whole continuation for each prompt. each: called with every piece; other parameters: see `stream`."""
        ids = self._encoded(prompts)
        texts, tokens = [""] * len(ids), [list[int]() for _ in ids]
        finish = [Finish.LENGTH] * len(ids)
        for piece in self.stream(ids, *args, **settings):
            each(piece)
            texts[piece.row] += piece.text
            tokens[piece.row].append(piece.token)
            finish[piece.row] = piece.finish or finish[piece.row]
        rows = zip(texts, tokens, ids, finish, strict=True)
        return [Completion(text, new, len(prompt), why) for text, new, prompt, why in rows]

    def _encoded(self, prompts: str | Sequence[Prompt]) -> list[list[int]]:
        return [self.encode(prompt) for prompt in ((prompts,) if isinstance(prompts, str) else prompts)]

    def _stream(self, given: Continuation) -> Stream[Piece, None, None]:
        # The last token needs no step of its own.
        with closing(self.decoder.start(*pad_left(given.prompts), given.new_tokens - 1)) as decoding:
            while True:
                tokens, pieces = given.choose(decoding.logits)
                yield from pieces
                if given.ended:
                    return
                decoding.step(tokens)
