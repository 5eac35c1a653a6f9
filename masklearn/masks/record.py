"""How masks came to be, as data: the part of a mask file's metadata that says what they were learned from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BudgetRecord",
    "ImportRecord",
    "MaskRecord",
    "PermutedRecord",
    "RepairRecord",
    "ScoreCounts",
    "ScoreRecord",
    "SpeedRecord",
    "TextRecord",
    "TrainRecord",
    "ZeroScores",
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BudgetRecord(_Part):
    """How much was to be pruned: a ratio, or ratios by pattern; or an amount that tiles save, in a unit."""

    ratio: float | str | None = None
    per_layer: bool = False
    amount: float | None = None
    unit: str


class TextRecord(_Part):
    """Text that masks were calibrated and trained on.

    name: without the folders that it lies in; sha256: of all its token ids, little-endian int64; tokens: of the whole
    pool; windows, length: those that calibrated.
    """

    source: Literal["file", "folder", "dataset", "self"]
    name: str
    sha256: str
    tokens: int
    windows: int
    length: int
    seed: int


class TrainRecord(_Part):
    """Training of a gradient method. prior: what it began from; first, last: means of each figure over the first and the
    last tenth of the steps; kl: to the dense model, of each of the masks that were compared; kept: the name of the best."""

    prior: str
    steps: int
    tokens: int
    first: dict[str, float]
    last: dict[str, float]
    kept: str
    kl: dict[str, float]


class RepairRecord(_Part):
    """Repair of the surviving weights, or why there was none.

    kl_…, error_…: how far the model was from the dense one at first and at last; an encoder has an error, other models
    the KL divergence.
    """

    method: Literal["distill", "none"]
    why: str | None = None
    steps: int = 0
    tokens: int = 0
    kl_first: float | None = None
    kl_last: float | None = None
    error_first: float | None = None
    error_last: float | None = None
    learning_rate: float | None = None
    label_weight: float = 0.0
    batch: int | None = None
    optimizer: str | None = None
    precision: Literal["bf16", "fp32"] | None = None


class PermutedRecord(_Part):
    """Hidden channels that were permuted before the masks were learned; dense_error: the most that a part's output moved
    by it, relative to its norm."""

    parts: int
    channels: int
    dense_error: float


class ScoreCounts(_Part):
    """Weights and tiles in each bin of a histogram."""

    weights: list[int]
    tiles: list[int]


class ZeroScores(_Part):
    """Number of tiles whose score is 0."""

    dense: int
    sparse: int


class ScoreRecord(_Part):
    """Histogram of score per zeroed weight; see `summarise_scores`."""

    unit: str
    edges: list[float]
    dense: ScoreCounts
    sparse: ScoreCounts
    zero: ZeroScores
    cut: float | None
    ranked: str


class SpeedRecord(_Part):
    """Tiles that were chosen for a speed. saved_us: predicted, by `tiles` tiles; cost: what they lose in the method's
    score; bound: what any choice that saves as much loses at least, from which `cost` is `gap` away, relatively."""

    goal: str
    card: str
    saved_us: float
    tiles: int
    cost: float
    bound: float
    gap: float


class ImportRecord(_Part):
    """Masks that others published. sha256: of the source; zeros: of its masks; unmasked: covered linears without a mask;
    ignored: linears with one that are not covered; meta: what the source says of itself."""

    source: str
    sha256: str
    format: str
    zeros: int
    unmasked: list[str]
    ignored: list[str]
    meta: dict[str, Any] = Field(default_factory=dict)


class MaskRecord(BaseModel):
    """How a MaskSet came to be. Parts that a set has none of are None.

    skipped: linears that were left dense, and why; weights: sha256 of the model whose weights belong to the masks, where
    they are not those of the base model; inputs: arrays that masks of an ONNX file were learned on, in words; criterion:
    what its tiles were ranked by.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    skipped: dict[str, str] = Field(default_factory=dict)
    budget: BudgetRecord | None = None
    text: TextRecord | None = None
    inputs: str | None = None
    criterion: str | None = None
    train: TrainRecord | None = None
    repair: RepairRecord | None = None
    permuted: PermutedRecord | None = None
    scores: ScoreRecord | None = None
    speed: SpeedRecord | None = None
    weights: str | None = None
    imported: ImportRecord | None = None

    @classmethod
    def of_metadata(cls, stored: Mapping[str, Any]) -> MaskRecord:
        """From a mask file, where what is known of an import stands beside the rest. ValueError for what is no record."""
        imported = {name: stored[name] for name in ImportRecord.model_fields if name in stored}
        parts = {name: value for name, value in stored.items() if name not in imported}
        return cls.model_validate(parts | ({"imported": imported} if imported else {}))

    def as_metadata(self) -> dict[str, Any]:
        """For a mask file: what was set alone, so that equal sets give equal bytes whatever version wrote them."""
        stored = self.model_dump(mode="json", exclude_unset=True)
        imported = stored.pop("imported", None) or {}
        return {name: part for name, part in (stored | imported).items() if part is not None}
