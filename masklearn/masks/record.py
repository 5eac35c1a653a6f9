"""Types of the record in a mask file's metadata, which says how the masks were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from masklearn.masks.name_globs import depth_of, kind_of, short_kinds

_BUCKETS = 10  # this many columns fit a terminal of 80 characters
Figure = Annotated[float, AfterValidator(lambda value: float(f"{value:.6g}"))]
"""A number of six digits. Sums of scores may differ in their last bits."""


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


def summarise_tiles(tile_maps: Mapping[str, NDArray[np.bool_]]) -> TileSummary:
    """Returns shares of pruned tiles, for a table: of at most `_BUCKETS` groups of neighbouring blocks of equal size.

    tile_maps: bool `[grid]` by linear, True for a pruned tile.
    """
    groups = _groups(tile_maps)
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


def _groups(names: Mapping[str, Any]) -> list[list[int]]:
    depths = sorted({depth for name in names if (depth := depth_of(name)) is not None})
    if not depths:
        return []
    return [part.tolist() for part in np.array_split(depths, min(_BUCKETS, len(depths)))]


def _shares(
    tile_maps: Mapping[str, NDArray[np.bool_]], names: Sequence[str], groups: Sequence[Sequence[int]]
) -> dict[str, Any]:
    by_depth = [_share(tile_maps, [name for name in names if depth_of(name) in group]) for group in groups]
    return {"share": _share(tile_maps, names), "by_depth": by_depth}


def _share(tile_maps: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> float | None:
    tiles = sum(tile_maps[name].size for name in names)
    return sum(int(tile_maps[name].sum()) for name in names) / tiles if tiles else None


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


class GainRecord(_Part):
    """Linears that gain by pruning on a target. The others have no pruned tile.

    card: the card of the predictions, None without predictions; covered: number of covered linears; asked: number of
    covered linears with a ratio above 0; gaining: number of linears that gain; ratio: zeroed weights over the weights of the
    linears that gain; ratio_of_counted: over the weights of all linears that gain with enough tiles, over which a requested
    ratio counts, None if these are all covered linears; ratio_of_covered: over the weights of all covered linears.
    """

    card: str | None
    covered: int
    asked: int
    gaining: int
    ratio: float
    ratio_of_counted: float | None = None
    ratio_of_covered: float

    @property
    def reached(self) -> float:
        """The ratio to compare with the requested ratio."""
        return self.ratio_of_covered if self.ratio_of_counted is None else self.ratio_of_counted


class ChoiceRecord(_Part):
    """Choice of tiles and weight types for a goal.

    unit: what was asked for: `ratio` (a number, or ratios by pattern), `bytes_per_weight`, `speedup`, `budget_ms`
    (milliseconds of the workload), or a unit of which an amount was to be saved; per_layer: True if each linear was to reach
    it; reached: in the same unit; card: the card of predicted times.

    kinds, types: shares of the weights by kind of tile and by weight type, of all that were open, taken or not. A plan has
    no tile map, and so neither these nor losses.

    loss: scores of the pruned tiles and the loss of rounding; bound: no choice of the same menu that saves as much loses
    less, where the menu has tiles of a gate and its up in pairs if they may share a node. Both are None if nothing was to be
    chosen, or if training moved tiles. rounding: the loss of rounding, None unless types were open.
    """

    unit: str
    asked: Figure | str
    per_layer: bool = False
    reached: Figure
    card: str | None = None
    kinds: dict[str, Figure] = Field(default_factory=dict)
    types: dict[str, Figure] = Field(default_factory=dict)
    loss: Figure | None = None
    rounding: Figure | None = None
    bound: Figure | None = None
    gains: GainRecord | None = None


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
    choice: ChoiceRecord | None = None
    text: TextRecord | None = None
    inputs: str | None = None
    criterion: str | None = None
    train: TrainRecord | None = None
    repair: RepairRecord | None = None
    permuted: PermutedRecord | None = None
    smoothed: SmoothedRecord | None = None
    weights: str | None = None
    imported: ImportRecord | None = None

    @classmethod
    def of_metadata(cls, stored: Mapping[str, Any]) -> MaskRecord:
        """Read the record of a mask file, in which the fields of an import are on the top level.

        Raises ValueError if it is not a record.
        """
        imported = {name: stored[name] for name in ImportRecord.model_fields if name in stored}
        parts = {name: value for name, value in stored.items() if name not in imported}
        return cls.model_validate(parts | ({"imported": imported} if imported else {}))

    def as_metadata(self) -> dict[str, Any]:
        """Returns the record as a mask file has it.

        It holds only fields that were set, so that files of equal sets have equal bytes in every version.
        """
        stored = self.model_dump(mode="json", exclude_unset=True)
        imported = stored.pop("imported", None) or {}
        return {name: part for name, part in (stored | imported).items() if part is not None}
