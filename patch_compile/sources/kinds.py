"""Names for the work of commands: the stages of a build, and the token sequences of a source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stages of a build, in order. Each name is a key of the manifest."""

    MASKS = "masks"
    ONNX = "onnx"
    ENGINE = "engine"
    PROOF = "proof"


@dataclass(frozen=True)
class Sequences:
    """Token sequences that a source takes.

    vocabulary: number of tokens in the vocabulary; positions: maximum length, None without a limit; decodes: True if it
    also takes single steps with a KV cache.
    """

    vocabulary: int
    positions: int | None
    decodes: bool
