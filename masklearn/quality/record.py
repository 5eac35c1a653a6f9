"""Types of a comparison with baselines, which are simpler ways to prune the same model."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.masks.kinds.table import TWO_FOUR

Unbounded = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
"""A number that may be infinite, such as a perplexity that overflowed. JSON, which has no infinity, holds null for it."""


# A ratio of 0.001, a tile's share of a small model's weights, as the bytes of a weight that 2:4 tiles save by it.
_TILE = 1e-3 * (BYTES_DENSE - TWO_FOUR.bytes_per_weight) / TWO_FOUR.zeros


class Baseline(StrEnum):
    """Name of a baseline."""

    DENSE = "dense"
    ROUNDED = "dense-rounded"
    UNIFORM = "uniform-2:4"
    UNSTRUCTURED = "unstructured"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaselineRow(_Part):
    """A pruned model in the comparison.

    ratio: the reached ratio; seconds: duration of learning without evaluation, None if it is unknown; deployable: False if
    no kernel runs such a model; bytes_per_weight: of a packed weight of its type, on average over the covered weights.
    """

    name: str
    ratio: float
    perplexity: Unbounded
    seconds: float | None
    deployable: bool
    bytes_per_weight: float

    def beats(self, other: BaselineRow) -> bool:
        """True if this row has a lower perplexity and takes no more bytes. Kinds of tiles reach the same bytes at different
        ratios. Differences as small as a tile of a small model do not count."""
        smaller = self.bytes_per_weight <= other.bytes_per_weight + _TILE
        return smaller and self.perplexity < other.perplexity


class BesideBaselines(_Part):
    """A result and its baselines.

    rows: the result first; beaten_by: names of the deployable baselines that beat it; windows, length: number of windows
    of evaluation text, and tokens in each; dtype: the type of the arithmetic.
    """

    rows: tuple[BaselineRow, ...]
    beaten_by: tuple[str, ...]
    windows: int
    length: int
    dtype: str

    @property
    def result(self) -> BaselineRow:
        return self.rows[0]
