"""Interface between a generator and a decoder (an engine or an ONNX file). Prompts are padded on the left."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.tensor_names import LOGITS, PAST, TOKEN_INPUTS

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]


class LogitsError(PatchCompileError):
    """Error for logits that are not finite. It does not name the model's file: a server's clients need not know it."""


@dataclass(frozen=True)
class Limits:
    """Largest inputs of a decoder; None means unlimited.

    batch: sequences in a batch; prompt: tokens in a prompt; total: tokens of a prompt and its continuation; total_why:
    the reason for `total`, a clause that ends before the number.
    """

    batch: int | None = None
    prompt: int | None = None
    total: int | None = None
    total_why: str = "The model has no positions beyond"

    def check(self, batch: int, prompt: int, new_tokens: int) -> None:
        """Raise PatchCompileError when the batch, its longest prompt or prompt plus new tokens exceed the limits."""
        if self.batch is not None and batch > self.batch:
            raise PatchCompileError(
                f"{batch} prompts are more than the {self.batch} that the engine takes at once",
                "Its profile says how many sequences a batch may have.",
                f"Give at most {self.batch}, or build with `max_shapes` batch={batch},…",
            )
        if self.prompt is not None and prompt > self.prompt:
            raise PatchCompileError(
                f"A prompt of {prompt} tokens is longer than the {self.prompt} that the engine takes",
                "Its profile says how long a prompt may be.",
                f"Shorten it, or build with `max_shapes` sequence={prompt},…",
            )
        if self.total is not None and prompt + new_tokens > self.total:
            raise PatchCompileError(
                f"{prompt} tokens of prompt and {new_tokens} new ones are more than {self.total}",
                f"{self.total_why} {self.total} tokens.",
                "Shorten the prompt or ask for fewer new tokens.",
            )


class Decoding(Protocol):
    """A batch of sequences that is being continued."""

    @property
    def logits(self) -> Logits:
        """Logits `[batch, vocabulary]` of the token that follows each sequence."""

    def step(self, tokens: Tokens) -> None:
        """Append a token to each sequence and compute the `logits` of the next token. tokens: `[batch]`."""

    def close(self) -> None:
        """Release its memory. It can't be used after this."""


class Decoder(Protocol):
    """A model that continues sequences of tokens."""

    @property
    def name(self) -> str:
        """Description of the library and device that run the model."""

    @property
    def limits(self) -> Limits:
        """Largest accepted batch and sequence."""

    def start(self, ids: Tokens, mask: Tokens, new_tokens: int) -> Decoding:
        """Read prompts and return their decoding. The caller has checked the limits. It may wait for the last batch.

        ids: `[batch, sequence]`; mask: same shape, 0 for the padding left of a prompt; new_tokens: largest number of
        tokens that will be appended.
        """


def pad_left(prompts: Sequence[Sequence[int]]) -> tuple[Tokens, Tokens]:
    """Returns ids and mask, both `[batch, longest]`. All prompts end in the last column, so they continue together."""
    longest = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def positions_of(mask: Tokens, new: int) -> Tokens:
    """Returns the positions `[batch, new]` of the last slots of a mask `[batch, total]`. Padding takes no position."""
    return np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, mask.shape[1] - new :]


def check_finite(logits: NDArray[Any], model: str = "The model") -> None:
    """Raise LogitsError, whose sentence begins with `model`, if a logit is not finite."""
    if not np.isfinite(logits).all():
        raise LogitsError(
            f"{model}'s logits are not finite",
            "An activation overflowed fp16.",
            "Build with `dtype` bfloat16.",
        )


def check_decoder(name: str, tensors: Collection[str]) -> None:
    """Raise PatchCompileError for a model that lacks inputs or outputs of a decoder. tensors: names of both."""
    missing = [one for one in (*TOKEN_INPUTS, LOGITS) if one not in tensors]
    missing += [] if any(one.startswith(PAST) for one in tensors) else [f"{PAST}*"]
    if missing:
        raise PatchCompileError(
            f"{name} is not a decoder that can generate",
            f"It lacks {', '.join(missing)}.",
            "Give a model that `patch-compile build` made of a causal language model.",
        )
