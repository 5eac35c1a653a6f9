"""Families of kinds of tiles, and a kind: a row of the table of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from masklearn.quant.table import FLOAT16, WeightType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BYTES_DENSE = FLOAT16.bits / 8  # bytes of a 16-bit weight


def is_numpy(values: Any) -> bool:
    """True for an array of numpy. The table imports no numpy before it is needed: the command line's help asks the table."""
    return type(values).__module__ == "numpy"


class Family(ABC):
    """Kinds that share a group, and differ in the number of weights that each group keeps.

    Arrays are of numpy or torch, and results are of the same library and on the same device.

    name: name in errors and of the codes in a mask file; group: weights of a row that share a code; span: consecutive
    columns whose groups lie among them, so that K and the columns of a tile are multiples of it; code_bits: bits that a
    group's code takes in packed slabs, in addition to its kept weights; stored: name of the numpy type of a code;
    input_bits: bits of the inputs by which kernels multiply such tiles; windows: windows of 4 columns that sparse tensor
    cores multiply for each 4 columns of a tile, None if dense tensor cores multiply it.
    """

    name: ClassVar[str]
    group: ClassVar[int]
    span: ClassVar[int]
    code_bits: ClassVar[int]
    stored: ClassVar[str]
    input_bits: ClassVar[tuple[int, ...]]
    windows: ClassVar[float | None]

    @abstractmethod
    def best(self, scores: Any, kept: Any) -> Any:
        """Returns codes `[..., K/group]` that keep the `kept` weights of each group with the highest scores.

        scores: `[..., K]`, without NaN, K a multiple of `span`; kept: a number, or integers that broadcast to
        `[..., K/group]`. Among equal scores, lower positions in the group are kept.
        """

    @abstractmethod
    def keep(self, codes: Any) -> Any:
        """Returns the mask of kept weights, bool `[..., K]`; codes: `[..., K/group]`."""

    def groups(self, values: Any) -> Any:
        """Returns `[..., K]` as `[..., K/group, group]`, with each group's weights in the order of their positions."""
        return values.reshape(*values.shape[:-1], values.shape[-1] // self.group, self.group)

    @abstractmethod
    def check(self, codes: NDArray[Any], kept: NDArray[np.uint8]) -> None:
        """Raises ValueError unless every code keeps `kept` weights; both `[n]`."""


@dataclass(frozen=True)
class TileKind:
    """One kind of tile.

    name: value on the command line, and in reports; code: number in mask files; family: its family, None for dense;
    kept: weights that each group keeps.
    """

    name: str
    code: int
    family: Family | None
    kept: int

    @property
    def group(self) -> int:
        """Weights in a group; 1 for dense."""
        return self.family.group if self.family else 1

    @property
    def span(self) -> int:
        """Columns that K and a tile's columns are multiples of; 1 for dense."""
        return self.family.span if self.family else 1

    @property
    def zeros(self) -> float:
        return (self.group - self.kept) / self.group

    def products(self, sparse: float = 0.5) -> float:
        """Returns the time of a tile's products over those of a dense tile. sparse: this time for 2:4."""
        windows = self.family.windows if self.family else None
        return 1.0 if windows is None else windows * sparse

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of a weight of 16 bits in packed slabs, with its share of the codes."""
        return self.bytes_of(FLOAT16)

    def bytes_of(self, weights: WeightType) -> float:
        """Bytes of a weight of this type in packed slabs, with its share of the codes and of the slabs' scales."""
        codes = self.family.code_bits / 8 / self.family.group if self.family else 0.0
        return weights.bits / 8 * self.kept / self.group + codes + weights.scale_bytes

    def fits(self, columns: int) -> bool:
        """True if groups of this kind divide `columns` (K, or the columns of a tile)."""
        return columns % self.span == 0

    def goes_with(self, weights: WeightType) -> bool:
        """True if kernels multiply tiles of this kind whose weights have this type."""
        return self.family is None or weights.input_bits in self.family.input_bits

    def fits_tiles(self, columns: int, tile_columns: int) -> bool:
        """True if groups of this kind divide K (`columns`) and the columns of a tile. Tiles wider than K have K columns."""
        return self.fits(columns) and (tile_columns >= columns or self.fits(tile_columns))

    def __str__(self) -> str:
        return self.name
