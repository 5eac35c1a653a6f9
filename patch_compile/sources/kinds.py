"""Names for the work of commands: the stages of a build, the abilities of a source, and its token sequences."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stages of a build, in order. Each name is a key of the manifest."""

    MASKS = "masks"
    ONNX = "onnx"
    ENGINE = "engine"
    PROOF = "proof"


class Capability(StrEnum):
    """Abilities that only some kinds of source have. The first three are the commands of the same name."""

    LEARN = "learn"
    COMPILE = "compile"
    PLAN = "plan"
    BLOCKS = "blocks"  # its blocks can be run one after another on text, dense and pruned
    NEXT_TOKENS = "next tokens"  # it predicts next tokens: it has a perplexity, and continues text


@dataclass(frozen=True)
class Sequences:
    """Token sequences that a source takes.

    vocabulary: number of tokens in the vocabulary; positions: maximum length, None without a limit; decodes: True if it
    also takes single steps with a KV cache.
    """

    vocabulary: int
    positions: int | None
    decodes: bool
