"""Projection of scores on the masks that the kinds of a linear's tiles allow, for solvers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import and_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import FAMILIES, TWO_FOUR
from masklearn.masks.linear_mask import kept_per_group, tiles_of
from masklearn.masks.nm_codes import PATTERNS, patterns_from_scores
from masklearn.masks.tiles import GROUP, expand_tiles
from masklearn.solvers import row_loops

_TWO_OF_FOUR = FAMILIES["2:4"]
_DTYPES = {"n:16": torch.int32, "6:8": torch.uint8}  # of the codes of the other families, in torch
_Rows = torch.Tensor | slice
_Bytes = NDArray[np.uint8]
_Arrays = tuple[NDArray[np.bool_], _Bytes, _Bytes, _Bytes, NDArray[np.int32], _Bytes]


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of all groups of a linear. Codes of groups in tiles of other kinds have no meaning.

    pattern: uint8 `[N, K/4]` of 2:4; masks: by name of another family, if a tile is of that family: int32 `[N, K/16]` of
    n:16, uint8 `[N, K/8]` of 6:8.
    """

    pattern: torch.Tensor
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __getitem__(self, rows: _Rows) -> "Codes":
        return Codes(self.pattern[rows], {family: masks[rows] for family, masks in self.masks.items()})

    def put(self, rows: _Rows, found: "Codes") -> None:
        self.pattern[rows] = found.pattern
        for family in self.masks.keys() & found.masks.keys():
            self.masks[family][rows] = found.masks[family]

    def by_family(self) -> dict[str, NDArray[Any]]:
        """Returns the codes as numpy arrays in the types of a mask file, by name of the family."""
        return {_TWO_OF_FOUR.name: self.pattern.cpu().numpy()} | {
            family: masks.cpu().numpy().astype(FAMILIES[family].stored)
            for family, masks in self.masks.items()
        }

    @classmethod
    def of_families(cls, arrays: Mapping[str, NDArray[Any]], device: torch.device) -> "Codes":
        """Inverse of `by_family`."""
        return cls(
            torch.from_numpy(arrays[_TWO_OF_FOUR.name]).to(device),
            {
                family: torch.from_numpy(arrays[family].astype(np.int32)).to(device, dtype)
                for family, dtype in _DTYPES.items()
                if family in arrays
            },
        )

    @classmethod
    def together(cls, parts: Sequence["Codes"]) -> "Codes":
        """Returns the codes of all rows of the parts, which have codes of the same families."""
        return cls(
            torch.cat([one.pattern for one in parts]),
            {family: torch.cat([one.masks[family] for one in parts]) for family in parts[0].masks},
        )


@dataclass(frozen=True, eq=False)
class Projection:
    """Masks that the tiles of a linear allow.

    sparse: bool `[N, K/4]`, True for groups of 4 to prune 2:4; kept: uint8 `[N, K/group]`, weights to keep of each group of
    another family, which are all weights of the group outside tiles of the family; by name of the family, if a tile is of
    that family.
    """

    sparse: torch.Tensor
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def everywhere(cls, kind: TileKind, shape: tuple[int, int], device: torch.device) -> "Projection":
        """Returns the projection for which every tile has this kind."""
        return cls.of_tiles(np.full((1, 1), kind.code, np.uint8), shape, shape, device)

    @classmethod
    def of_tiles(
        cls, kinds: NDArray[np.uint8], shape: tuple[int, int], tile: tuple[int, int], device: torch.device
    ) -> "Projection":
        """Returns the projection of a linear; kinds: codes of the kinds of its tiles `[grid]`."""
        sparse = torch.from_numpy(expand_tiles(kinds == TWO_FOUR.code, shape, tile)).to(device)
        there = (family for family in _DTYPES if tiles_of(kinds, FAMILIES[family]).any())
        kept = {family: torch.from_numpy(kept_per_group(kinds, shape, tile, family)) for family in there}
        return cls(sparse, {family: counts.to(device) for family, counts in kept.items()})

    @classmethod
    def together(cls, parts: Sequence["Projection"]) -> "Projection":
        families = {family: None for one in parts for family in one.kept}
        return cls(
            torch.cat([one.sparse for one in parts]),
            {family: torch.cat([one._kept_of(family) for one in parts]) for family in families},
        )

    def _kept_of(self, family: str) -> torch.Tensor:
        if family in self.kept:
            return self.kept[family]
        group = FAMILIES[family].group
        groups = self.sparse.shape[1] * GROUP // group
        return torch.full((len(self.sparse), groups), group, dtype=torch.uint8).to(self.sparse.device)

    def __getitem__(self, rows: _Rows) -> "Projection":
        return Projection(self.sparse[rows], {family: kept[rows] for family, kept in self.kept.items()})

    @cached_property
    def pruned_rows(self) -> torch.Tensor:
        """Rows with something to prune, bool `[N]`."""
        rows = self.sparse.any(dim=1)
        for family, kept in self.kept.items():
            rows = rows | (kept < FAMILIES[family].group).any(dim=1)
        return rows

    @cached_property
    def has_two_four(self) -> bool:
        """True if some group is to be pruned 2:4, or no tile is of another family."""
        return not self.kept or bool(self.sparse.any())

    def codes(self, scores: torch.Tensor) -> Codes:
        """Returns the codes that keep the highest scores `[N, K]`."""
        if scores.device.type == "cpu":
            codes = self.empty_codes()
            row_loops.choose(scores.float().contiguous().numpy(), *self.arrays(codes))
            return codes
        pattern = patterns_from_scores(scores) if self.has_two_four else self.empty_codes().pattern
        return Codes(
            pattern, {family: FAMILIES[family].best(scores, kept) for family, kept in self.kept.items()}
        )

    def keep(self, codes: Codes) -> torch.Tensor:
        """Returns the mask of kept weights, bool `[N, K]`."""
        rows, columns = len(self.sparse), self.sparse.shape[1] * GROUP
        if self.sparse.device.type == "cpu":
            kept = torch.empty(rows, columns, dtype=torch.bool)
            row_loops.keep(*self.arrays(codes), kept.numpy())
            return kept
        found: list[torch.Tensor] = [FAMILIES[family].keep(codes.masks[family]) for family in self.kept]
        if self.has_two_four:
            table = torch.from_numpy(PATTERNS.copy()).to(codes.pattern.device)
            kept = table[codes.pattern.int()]
            kept |= ~self.sparse[..., None]
            found.append(kept.view(rows, columns))
        return reduce(and_, found)

    def empty_codes(self) -> Codes:
        """Returns codes 0 for all groups."""
        device = self.sparse.device
        return Codes(
            torch.zeros(self.sparse.shape, dtype=torch.uint8, device=device),
            {
                family: torch.zeros(kept.shape, dtype=_DTYPES[family], device=device)
                for family, kept in self.kept.items()
            },
        )

    def arrays(self, codes: Codes) -> _Arrays:
        """Returns `sparse`, `kept` of n:16 and of 6:8, and the codes for `row_loops`, which share memory with the tensors on
        the CPU.

        Arrays of n:16 and of 6:8 are `[N, 0]` if no tile is of that family.
        """
        none = self.sparse[:, :0]
        kept16, kept8 = (_numpy(self.kept.get(family, none.byte())) for family in _DTYPES)
        mask16, mask8 = (_numpy(codes.masks.get(family, none.to(dtype))) for family, dtype in _DTYPES.items())
        return _numpy(self.sparse), kept16, kept8, _numpy(codes.pattern), mask16, mask8


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.contiguous().numpy()
    return array
