"""What a generator asks of whatever runs the model, and what it gives it: prompts, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError

__all__ = ["Decoder", "Decoding", "Limits", "Logits", "Tokens", "check_limits", "pad_left", "positions_of"]

Tokens = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """Most sequences in a batch, tokens in a prompt, and tokens of prompt and continuation; None where any number goes.

    total_why: what sets the last one, in words.
    """

    batch: int | None = None
    prompt: int | None = None
    total: int | None = None
    total_why: str = "The model has no positions beyond"


class Decoding(Protocol):
    """A batch of sequences that is being continued."""

    @property
    def logits(self) -> Logits:
        """Of the token that follows each sequence: `[batch, vocabulary]`."""

    def step(self, tokens: Tokens) -> None:
        """Append a token `[batch]` to each sequence; `logits` are then those of the next."""

    def close(self) -> None:
        """Give back what it holds; it can't be used any more."""


class Decoder(Protocol):
    """A model that continues sequences of tokens."""

    @property
    def name(self) -> str:
        """What runs it, in words."""

    @property
    def limits(self) -> Limits:
        """What it can take."""

    @property
    def concurrent(self) -> bool:
        """Whether several batches may be continued at once; else `start` waits until the one before is closed."""

    def start(self, ids: Tokens, mask: Tokens, new_tokens: int) -> Decoding:
        """Read prompts `[batch, sequence]`, 0 in the mask where a prompt is padded on its left.

        new_tokens: most that will be appended. The caller has checked the limits.
        """


def pad_left(prompts: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tokens, Tokens]:
    """Ids and mask `[batch, longest]`: prompts end together, so that all continue at the same place."""
    longest = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), longest), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def positions_of(mask: Tokens, new: int) -> Tokens:
    """Positions of the last `new` slots of a mask `[batch, total]`: padding takes none."""
    return np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, mask.shape[1] - new :]


def check_limits(limits: Limits, batch: int, prompt: int, new_tokens: int) -> None:
    """Raise PatchCompileError when a batch, its longest prompt or the whole of it is more than the limits."""
    if limits.batch is not None and batch > limits.batch:
        raise PatchCompileError(
            f"{batch} prompts are more than the {limits.batch} that the engine takes at once",
            "Its profile says how many sequences a batch may have.",
            f"Give at most {limits.batch}, or build with --max-shapes batch={batch},…",
        )
    if limits.prompt is not None and prompt > limits.prompt:
        raise PatchCompileError(
            f"A prompt of {prompt} tokens is longer than the {limits.prompt} that the engine takes",
            "Its profile says how long a prompt may be.",
            f"Shorten it, or build with --max-shapes sequence={prompt},…",
        )
    if limits.total is not None and prompt + new_tokens > limits.total:
        raise PatchCompileError(
            f"{prompt} tokens of prompt and {new_tokens} new ones are more than {limits.total}",
            f"{limits.total_why} {limits.total} tokens.",
            "Shorten the prompt or ask for fewer new tokens.",
        )
