"""Makes a MaskSet from published masks: finds the tile size and verifies every linear, one linear in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.printable import shown
from masklearn.base.progress import OnStep, silent, unsaid
from masklearn.choice.menu import allowed_kinds, left_out_of_auto, only_two_four
from masklearn.importers.base import IMPORTERS, Importer, Published, detect_format, first_few
from masklearn.importers.inference import (
    Mosaic,
    TileSearch,
    TileSize,
    mosaic_of,
    nonzero,
    tile_of,
    zeros_per_group,
)
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ImportRecord, MaskRecord
from masklearn.masks.tiles import GROUP, WHOLE, grid_shape
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from masklearn.model.hub import model_name, spelled
from masklearn.model.naming import from_stored
from masklearn.options import DEFAULT_TILE

Note = Callable[[str], object]


def import_masks(
    source: Path,
    checkpoint: Checkpoint,
    coverage: Coverage,
    format: str | None = None,
    tile: tuple[int, int] | None = None,
    progress: OnStep | None = None,
    note: Note | None = None,
    kinds: str = TWO_FOUR.name,
) -> MaskSet:
    """Import the masks of `source` for the covered linears of a model.

    format: a name of `IMPORTERS`, None to detect it; tile: (rows, columns), None to find the largest that fits; kinds: kinds
    of tiles to look for, see `choice.menu`: a tile gets the tightest kind that holds it; progress: see `OnStep`;
    note: called with a line for each finding and decision. Memory: one weight, and the patterns.

    Raises MaskLearnError if the source is damaged, of another model or format, has no 2:4 tile, or violates 2:4 in a
    linear that it claims to be 2:4 (the error names linear and group).
    """
    note = note or unsaid
    if format is None:
        format, why = detect_format(source)
        note(f"format: {format} ({why})")
    importer = IMPORTERS[format]()
    published = importer.open(source, checkpoint, coverage)
    run = _Import(source, importer, published, checkpoint, coverage, progress or silent, note, kinds)
    run.say_base_model()
    run.say_coverage()
    masks = dict(run.masks(tile or run.tile_size()))
    ratio = run.ratio(masks)
    grids = checkpoint.grids if published.grids is None else published.grids
    imported = ImportRecord(
        source=source.absolute().name,
        sha256=published.sha256(),
        format=format,
        zeros=run.zeros,
        unmasked=run.unmasked,
        ignored=list(published.ignored),
        **published.about,
    )
    return MaskSet(
        masks,
        method=f"import:{format}",
        seed=0,
        base_model=model_name(spelled(checkpoint.path)),
        base_sha256=checkpoint.fingerprint(),
        ratio_asked=ratio,
        grids={name: grids[name] for name in masks if name in grids},
        record=MaskRecord(skipped=dict(coverage.skipped), imported=imported),
    )


@dataclass
class _Import:
    """State of an import.

    zeros: number of zeros in the published masks; extra: number of published zeros that the hybrid masks do
    not have, though the model's weight is not zero; nearly: number of tiles, by linear, that are dense because of a few
    groups only.
    """

    source: Path
    importer: Importer
    published: Published
    checkpoint: Checkpoint
    coverage: Coverage
    progress: OnStep
    note: Note
    kinds: str
    zeros: int = 0
    extra: int = 0
    nearly: dict[str, int] = field(default_factory=dict)

    @property
    def unmasked(self) -> list[str]:
        masked = set(self.published.names)
        return [name for name in self.coverage.linears if name not in masked]

    def say_base_model(self) -> None:
        """Tell the user whether masks without weights were made for this very model, of which they hold no hash."""
        if self.importer.in_weights:
            return
        made_for, model = self.published.base_model, spelled(self.checkpoint.path)
        if made_for == model.partition("@")[0]:
            self.note(f"base model: {model}, for which the masks were made")
        else:
            of = f"the masks were made for {shown(made_for)}" if made_for else "the source does not name it"
            self.note(
                f"base model: {of}; {model} has the names and shapes of its linears, but whether it has its "
                "weights is unknown"
            )

    def say_coverage(self) -> None:
        """Tell the user about linears that only the source or only the coverage has."""
        if self.unmasked:
            few = first_few(self.unmasked)
            self.note(f"dense: {len(self.unmasked)} covered linears that the source does not mask ({few})")
        if self.published.ignored:
            self.note(f"left out: masks of {first_few(self.published.ignored)}, which are not covered")

    def tile_size(self) -> TileSize:
        """Find the tile size, and tell the user."""
        mosaics = [name for name in self.published.names if name not in self.published.uniform]
        if not mosaics:
            self.note(f"tile: {_words(DEFAULT_TILE)} (every group is 2:4, so any size would do)")
            return DEFAULT_TILE
        plain = only_two_four(self.kinds)
        kinds = allowed_kinds(self.kinds, self.coverage.linears, (WHOLE, WHOLE))
        search = TileSearch(kinds, self.published.smallest)
        for done, name in enumerate(mosaics, start=1):
            search.add(name, self.published.read(name))
            self.progress("finding the tile size", done, len(mosaics))
        size = search.result()
        if size is None and plain and not self.published.uniform:
            raise self._no_tile()
        why = f"the largest that {'loses no 2:4 area' if plain else 'takes no more bytes than smaller tiles'}"
        if size is None and not plain:
            why = "too few tiles of these kinds to find it by; `tile` names another"
        self.note(f"tile: {_words(size or DEFAULT_TILE)} ({why})")
        return size or DEFAULT_TILE

    def masks(self, size: TileSize) -> Iterator[tuple[str, LinearMask]]:
        """Yield the hybrid mask of every covered linear. Linears without a mask in the source are dense."""
        masked = set(self.published.names)
        tile = size[0] or WHOLE, size[1] or WHOLE
        kinds = allowed_kinds(self.kinds, self.coverage.linears, tile)
        for line in left_out_of_auto(self.kinds, self.coverage.linears, tile):
            self.note(line)
        for done, (name, shape) in enumerate(self.coverage.linears.items(), start=1):
            tile = tile_of(size, shape)
            yield name, self._mask(name, tile, kinds[name]) if name in masked else _dense(shape, tile)
            self.progress("importing", done, len(self.coverage.linears))

    def ratio(self, masks: dict[str, LinearMask]) -> float:
        """Returns the ratio by pattern, and tells the user about it and other findings.

        Raises MaskLearnError if no tile is sparse.
        """
        weights = sum(mask.weights for mask in masks.values())
        ratio = sum(mask.zeroed for mask in masks.values()) / weights
        if ratio == 0.0:
            raise self._no_tile()
        self.note(f"ratio: {ratio:.4f} by pattern; {self.zeros / weights:.4f} of the weights are zero")
        if self.extra:
            beyond = (
                "two of a group of 4"
                if only_two_four(self.kinds)
                else "the number for the kind of their tile"
            )
            self.note(f"kept: {self.extra} weights that the source zeroes beyond {beyond}")
        if self.nearly:
            self.note(
                f"dense: {sum(self.nearly.values())} tiles that are 2:4 but for a tenth of their groups or less "
                f"(in {first_few(self.nearly)}); was the model trained after it was pruned?"
            )
        return ratio

    def _mask(self, name: str, tile: tuple[int, int], kinds: Sequence[TileKind]) -> LinearMask:
        kept = self.published.read(name)
        if name in self.published.uniform:
            self._check_uniform(name, kept)
            kinds = (TWO_FOUR,)
        mosaic = mosaic_of(kept, tile, kinds=kinds)
        self.zeros += mosaic.zeros
        if not self.importer.in_weights and bool(mosaic.dropped(kept).any()):
            weight = f"{name}.weight"
            held = from_stored(self.checkpoint, weight, nonzero(self.checkpoint, weight))
            mosaic = mosaic_of(kept, tile, ~held, kinds)
            self._check_dropped(name, mosaic, mosaic.dropped(kept) & held, kinds)
        if mosaic.nearly:
            self.nearly[name] = mosaic.nearly
        return mosaic.mask

    def _check_uniform(self, name: str, kept: NDArray[np.bool_]) -> None:
        zeros = zeros_per_group(kept)
        if not bool((zeros < 2).any()):
            return
        row, group = np.argwhere(zeros < 2)[0].tolist()
        raise MaskLearnError(
            f"The mask of {name} in {self.source} is not 2:4",
            f"Row {row} keeps {GROUP - zeros[row, group]} of {_place(group)}; at most two of a group can be kept.",
            "Give the model that it was made for; a mosaic of dense and 2:4 tiles is imported from PATCH's format "
            "or from the pruned checkpoint.",
        )

    def _check_dropped(
        self, name: str, mosaic: Mosaic, lost: NDArray[np.bool_], kinds: Sequence[TileKind]
    ) -> None:
        """Count the zeros of the source that the hybrid mask does not have.

        lost: bool `[N, K]`, True for these zeros if the model's weight is not zero. Raises MaskLearnError if such a zero is
        in a dense tile. In a pruned tile, a group has more zeros than its kind, which a hybrid mask can't have.
        """
        dense = lost.reshape(lost.shape[0], -1, GROUP).any(axis=-1) & ~mosaic.sparse
        if bool(dense.any()):
            row, group = np.argwhere(dense)[0].tolist()
            rows, columns = mosaic.mask.tile
            raise MaskLearnError(
                f"The mask of {name} in {self.source} zeroes weights where it is not "
                f"{'2:4' if only_two_four(self.kinds) else f'of the kinds {self.kinds}'}",
                f"It zeroes weights of row {row}, {_place(group)}, which the model has; but in the {rows}x{columns} "
                f"tile around them some group {_keeps_more(kinds)}.",
                "Leave out `tile` or give a smaller tile; give the very model that the masks were made for.",
            )
        self.extra += int(lost.sum())

    def _no_tile(self) -> MaskLearnError:
        if only_two_four(self.kinds):
            return MaskLearnError(
                f"{self.source} holds no 2:4 tiles",
                "Nowhere do all groups of 4 along K (in_features) in a tile have two zeros: it is dense, or sparse "
                "without structure.",
                "Give masks or a checkpoint pruned 2:4 or to a mosaic; a smaller `tile` finds smaller tiles; `kinds` auto "
                "finds tiles that keep n of 16.",
            )
        return MaskLearnError(
            f"{self.source} holds no tiles of the kinds {self.kinds}",
            "In every tile some groups keep more weights than these kinds allow. A group of n:16 is 16 weights "
            "that lie strided in 64 columns of a row, not 16 neighbours.",
            "Give masks or a checkpoint pruned to these kinds; a smaller `tile` finds smaller tiles, of 64 columns or a "
            "multiple for n:16.",
        )


def _keeps_more(kinds: Sequence[TileKind]) -> str:
    if list(kinds) == [TWO_FOUR]:
        return "of 4 keeps more than two"
    return f"keeps more than {' and '.join(kind.name for kind in kinds) or 'no kind'} allow"


def _dense(shape: tuple[int, int], tile: tuple[int, int]) -> LinearMask:
    return LinearMask(shape, tile, np.zeros(grid_shape(shape, tile), np.bool_), np.zeros(0, np.uint8))


def _place(group: int) -> str:
    return f"k = {group * GROUP} ... {group * GROUP + GROUP - 1}"


def _words(size: TileSize) -> str:
    return "x".join(str(side or "*") for side in size)
