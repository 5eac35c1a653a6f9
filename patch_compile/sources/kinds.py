"""What commands ask of a source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Ability", "Sequences", "Stage"]


class Stage(StrEnum):
    """The stages of a build, in order; each is a key of the manifest."""

    MASKS = "masks"
    ONNX = "onnx"
    ENGINE = "engine"
    PROOF = "proof"


class Ability(StrEnum):
    """Something that a command asks of a source and not every kind can do. The first three are commands of that name."""

    LEARN = "learn"
    COMPILE = "compile"
    PLAN = "plan"
    BLOCKS = "blocks"  # its blocks are run one by one on text, dense and pruned
    NEXT_TOKENS = "next tokens"  # it predicts them: it has a perplexity, and continues text


@dataclass(frozen=True)
class Sequences:
    """The token sequences that a source takes. positions: most tokens of one, None where any number goes; decodes: it
    takes a step at a time behind a cache, too."""

    vocabulary: int
    positions: int | None
    decodes: bool
