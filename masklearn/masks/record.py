"""Types of the record in a mask file's metadata, which says how the masks were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from masklearn.masks.name_globs import depth_of, kind_of, short_kinds

_BUCKETS = 10  # this many columns fit a terminal of 80 characters


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TileShares(_Part):
    """Shares of pruned tiles.

    share: of all tiles; by_depth: of the tiles in each group of blocks. None stands for no tiles; the head is in no
    block.
    """

    share: float | None
    by_depth: tuple[float | None, ...]


class KindShares(TileShares):
    """Shares of a kind of linear. kind: the shortest end of its name that no other kind has; name: the whole name."""

    kind: str
    name: str


class TileSummary(_Part):
    """Shares of pruned tiles of a model. blocks: first and last block of each group of neighbouring blocks."""

    blocks: tuple[tuple[int, int], ...]
    kinds: tuple[KindShares, ...]
    all: TileShares


def summarise_tiles(tile_maps: Mapping[str, NDArray[np.bool_]], buckets: int = _BUCKETS) -> TileSummary:
    """Returns shares of pruned tiles, for a table.

    tile_maps: bool `[grid]` by linear, True for a pruned tile; buckets: largest number of groups of neighbouring blocks,
    which are as equal in size as possible.
    """
    groups = _groups(tile_maps, buckets)
    kinds: dict[str, list[str]] = {}
    for name in tile_maps:
        kinds.setdefault(kind_of(name), []).append(name)
    labels = short_kinds(kinds)
    return TileSummary(
        blocks=tuple((group[0], group[-1]) for group in groups),
        kinds=tuple(
            KindShares(kind=labels[kind], name=kind, **_shares(tile_maps, names, groups))
            for kind, names in kinds.items()
        ),
        all=TileShares(**_shares(tile_maps, list(tile_maps), groups)),
    )


def _groups(names: Mapping[str, Any], buckets: int) -> list[list[int]]:
    depths = sorted({depth for name in names if (depth := depth_of(name)) is not None})
    if not depths:
        return []
    return [part.tolist() for part in np.array_split(depths, min(buckets, len(depths)))]


def _shares(
    tile_maps: Mapping[str, NDArray[np.bool_]], names: Sequence[str], groups: Sequence[Sequence[int]]
) -> dict[str, Any]:
    by_depth = [_share(tile_maps, [name for name in names if depth_of(name) in group]) for group in groups]
    return {"share": _share(tile_maps, names), "by_depth": by_depth}


def _share(tile_maps: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> float | None:
    tiles = sum(tile_maps[name].size for name in names)
    return sum(int(tile_maps[name].sum()) for name in names) / tiles if tiles else None


class BudgetRecord(_Part):
    """Budget of the pruning: a ratio, ratios by pattern, or an amount to save in a unit."""

    ratio: float | str | None = None
    per_layer: bool = False
    amount: float | None = None
    unit: str


class TextRecord(_Part):
    """Text of calibration and training.

    name: without folders; sha256: of all token ids as little-endian int64; tokens: number of tokens in calibration and
    training windows; windows: number of calibration windows; length: tokens per window.
    """

    source: Literal["file", "folder", "dataset", "self"]
    name: str
    sha256: str
    tokens: int
    windows: int
    length: int
    seed: int


class TrainRecord(_Part):
    """Training of a gradient method.

    prior: name of the scores that training started from; first, last: means of each figure over the first and the last
    tenth of the steps; kl: KL divergence from the dense model of each set of masks that was compared; kept: name of the
    best set.
    """

    prior: str
    steps: int
    tokens: int
    first: dict[str, float]
    last: dict[str, float]
    kept: str
    kl: dict[str, float]


class RepairRecord(_Part):
    """Repair of the surviving weights.

    method: "none" if there was no repair, with the reason in `why`; kept: False if the repaired weights were not better, so
    that the weights stayed as they were; kl_…, error_…: distance from the dense model on held-out text before and after
    the repair, an error for encoders and the KL divergence for other models. If weights were rounded to int4 after that,
    even without a repair, scale_steps: steps of training their scales; scales_first, scales_last: distance before and after,
    on the same text.
    """

    method: Literal["distill", "none"]
    why: str | None = None
    kept: bool = True
    steps: int = 0
    tokens: int = 0
    kl_first: float | None = None
    kl_last: float | None = None
    error_first: float | None = None
    error_last: float | None = None
    learning_rate: float | None = None
    batch: int | None = None
    optimizer: str | None = None
    precision: Literal["bf16", "fp32"] | None = None
    scale_steps: int = 0
    scales_first: float | None = None
    scales_last: float | None = None


class PermutedRecord(_Part):
    """Permutation of hidden channels before the masks were learned.

    parts: number of permuted feed-forward parts; channels: number of their channels; dense_error: largest change of a
    part's output, relative to its norm.
    """

    parts: int
    channels: int
    dense_error: float


class SmoothedRecord(_Part):
    """Scales of input channels that were moved into the weights before the masks were learned.

    sites: number of inputs that were tried; scaled: number of inputs whose channels were scaled; whole: linears whose inputs
    can't be scaled; strength: mean strength of the scaled inputs; dense_error: largest change of a block's output, relative
    to its norm; shifted: True if norms multiply by 1 + w.
    """

    sites: int
    scaled: int
    whole: tuple[str, ...] = ()
    strength: float
    dense_error: float
    shifted: bool = False


class SpeedRecord(_Part):
    """Choice of tiles for a speed.

    saved_us: predicted microseconds that the `tiles` 2:4 tiles save; cost: sum of their scores; bound: lower bound on the
    cost of any choice that saves as much; gap: relative distance of `cost` from `bound`; rounding: additional cost
    of the chosen weight types, None if no types were chosen. With chosen types also: least: lower bound on the cost of any
    tiles and types that save as much together; speedup: predicted, of the whole workload; by_types: the same with all tiles
    dense.
    """

    goal: str
    card: str
    saved_us: float
    tiles: int
    cost: float
    bound: float
    gap: float
    rounding: float | None = None
    least: float | None = None
    speedup: float | None = None
    by_types: float | None = None


class GainRecord(_Part):
    """Linears that gain by pruning on a target. The others have no 2:4 tile.

    card: the card of the predictions, None without predictions; covered: number of covered linears; asked: number of
    covered linears with a ratio above 0; gaining: number of linears that gain; ratio: zeroed weights over the weights of the
    linears that gain; ratio_of_counted: over the weights of all linears that gain with enough tiles, over which a requested
    ratio counts, None if these are all covered linears.
    """

    card: str | None
    covered: int
    asked: int
    gaining: int
    ratio: float
    ratio_of_counted: float | None = None


class ImportRecord(_Part):
    """Import of published masks.

    sha256: of the source; zeros: number of zeros in its masks; unmasked: covered linears without a mask; ignored: linears
    with a mask that are not covered; meta: metadata of the source.
    """

    source: str
    sha256: str
    format: str
    zeros: int
    unmasked: list[str]
    ignored: list[str]
    meta: dict[str, Any] = Field(default_factory=dict)


class MaskRecord(BaseModel):
    """Record of how a MaskSet was made. A part is None if the set was made without it.

    skipped: linears left dense, with reasons; weights: sha256 of the model whose weights belong to the masks, None for the
    base model; inputs: description of the arrays that masks of an ONNX file were learned on; criterion: the score that
    ranked the tiles.
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
    smoothed: SmoothedRecord | None = None
    speed: SpeedRecord | None = None
    gains: GainRecord | None = None
    weights: str | None = None
    imported: ImportRecord | None = None

    @classmethod
    def of_metadata(cls, stored: Mapping[str, Any]) -> MaskRecord:
        """Read the record of a mask file, in which the fields of an import are on the top level.

        Earlier programs wrote a histogram of the scores too, which is left out.
        Raises ValueError if it is not a record.
        """
        imported = {name: stored[name] for name in ImportRecord.model_fields if name in stored}
        parts = {name: value for name, value in stored.items() if name not in (*imported, "scores")}
        return cls.model_validate(parts | ({"imported": imported} if imported else {}))

    def as_metadata(self) -> dict[str, Any]:
        """Returns the record as a mask file has it.

        It holds only fields that were set, so that files of equal sets have equal bytes in every version.
        """
        stored = self.model_dump(mode="json", exclude_unset=True)
        imported = stored.pop("imported", None) or {}
        return {name: part for name, part in (stored | imported).items() if part is not None}
