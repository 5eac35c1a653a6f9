"""Projection of scores on the masks that the kinds of a linear's tiles allow, for solvers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import FAMILIES, TWO_FOUR
from masklearn.masks.linear_mask import kept_per_group
from masklearn.masks.nm_codes import PATTERNS, patterns_from_scores
from masklearn.masks.tiles import GROUP, expand_tiles
from masklearn.solvers import row_loops

_TWO_OF_FOUR, _OF_SIXTEEN = FAMILIES["2:4"], FAMILIES["n:16"]
_Rows = torch.Tensor | slice
_Arrays = tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of all groups of a linear. Codes of groups in tiles of other kinds have no meaning.

    pattern: uint8 `[N, K/4]` of 2:4; mask16: int32 `[N, K/16]` of n:16, None if no tile is n:16.
    """

    pattern: torch.Tensor
    mask16: torch.Tensor | None = None

    def __getitem__(self, rows: _Rows) -> "Codes":
        return Codes(self.pattern[rows], None if self.mask16 is None else self.mask16[rows])

    def put(self, rows: _Rows, found: "Codes") -> None:
        self.pattern[rows] = found.pattern
        if self.mask16 is not None and found.mask16 is not None:
            self.mask16[rows] = found.mask16

    def by_family(self) -> dict[str, NDArray[Any]]:
        """Returns the codes as numpy arrays in the types of a mask file, by name of the family."""
        arrays: dict[str, NDArray[Any]] = {_TWO_OF_FOUR.name: self.pattern.cpu().numpy()}
        if self.mask16 is not None:
            arrays[_OF_SIXTEEN.name] = self.mask16.cpu().numpy().astype(_OF_SIXTEEN.stored)
        return arrays

    @classmethod
    def of_families(cls, arrays: Mapping[str, NDArray[Any]], device: torch.device) -> "Codes":
        """Inverse of `by_family`."""
        mask16 = arrays.get(_OF_SIXTEEN.name)
        return cls(
            torch.from_numpy(arrays[_TWO_OF_FOUR.name]).to(device),
            None if mask16 is None else torch.from_numpy(mask16.astype(np.int32)).to(device),
        )

    @classmethod
    def together(cls, parts: Sequence["Codes"]) -> "Codes":
        """Returns the codes of all rows of the parts, which either all have n:16 tiles or all do not."""
        sixteen = [one.mask16 for one in parts if one.mask16 is not None]
        return cls(torch.cat([one.pattern for one in parts]), torch.cat(sixteen) if sixteen else None)


@dataclass(frozen=True, eq=False)
class Projection:
    """Masks that the tiles of a linear allow.

    sparse: bool `[N, K/4]`, True for groups of 4 to prune 2:4; kept16: uint8 `[N, K/16]`, weights to keep of each group of
    16, which are all 16 outside n:16 tiles; None if no tile is n:16.
    """

    sparse: torch.Tensor
    kept16: torch.Tensor | None = None

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
        if not bool((kinds > TWO_FOUR.code).any()):
            return cls(sparse)
        kept = kept_per_group(kinds, shape, tile, _OF_SIXTEEN.name)
        return cls(sparse, torch.from_numpy(kept).to(device))

    @classmethod
    def together(cls, parts: Sequence["Projection"]) -> "Projection":
        sparse = torch.cat([one.sparse for one in parts])
        if all(one.kept16 is None for one in parts):
            return cls(sparse)
        return cls(sparse, torch.cat([one._all_kept16 for one in parts]))

    @property
    def _all_kept16(self) -> torch.Tensor:
        if self.kept16 is not None:
            return self.kept16
        groups = self.sparse.shape[1] * GROUP // _OF_SIXTEEN.group
        return torch.full((len(self.sparse), groups), _OF_SIXTEEN.group, dtype=torch.uint8).to(
            self.sparse.device
        )

    def __getitem__(self, rows: _Rows) -> "Projection":
        return Projection(self.sparse[rows], None if self.kept16 is None else self.kept16[rows])

    @cached_property
    def pruned_rows(self) -> torch.Tensor:
        """Rows with something to prune, bool `[N]`."""
        rows = self.sparse.any(dim=1)
        return rows if self.kept16 is None else rows | (self.kept16 < _OF_SIXTEEN.group).any(dim=1)

    @cached_property
    def has_two_four(self) -> bool:
        """True if some group is to be pruned 2:4, or nothing is n:16."""
        return self.kept16 is None or bool(self.sparse.any())

    def codes(self, scores: torch.Tensor) -> Codes:
        """Returns the codes that keep the highest scores `[N, K]`."""
        if scores.device.type == "cpu":
            codes = self.empty_codes()
            row_loops.choose(scores.float().contiguous().numpy(), *self.arrays(codes))
            return codes
        pattern = patterns_from_scores(scores) if self.has_two_four else self.empty_codes().pattern
        return Codes(pattern, None if self.kept16 is None else _OF_SIXTEEN.best(scores, self.kept16))

    def keep(self, codes: Codes) -> torch.Tensor:
        """Returns the mask of kept weights, bool `[N, K]`."""
        if self.sparse.device.type == "cpu":
            kept = torch.empty(len(self.sparse), self.sparse.shape[1] * GROUP, dtype=torch.bool)
            row_loops.keep(*self.arrays(codes), kept.numpy())
            return kept
        if not self.has_two_four:
            return self._keep16(codes)
        table = torch.from_numpy(PATTERNS.copy()).to(codes.pattern.device)
        kept = table[codes.pattern.int()]
        kept |= ~self.sparse[..., None]
        kept = kept.view(codes.pattern.shape[0], codes.pattern.shape[1] * GROUP)
        return kept if self.kept16 is None else kept & self._keep16(codes)

    def empty_codes(self) -> Codes:
        """Returns codes 0 for all groups."""
        device, mask16 = self.sparse.device, None
        if self.kept16 is not None:
            mask16 = torch.zeros(self.kept16.shape, dtype=torch.int32, device=device)
        return Codes(torch.zeros(self.sparse.shape, dtype=torch.uint8, device=device), mask16)

    def arrays(self, codes: Codes) -> _Arrays:
        """Returns `sparse`, `kept16` and the codes for `row_loops`, which share memory with the tensors on the CPU.

        Arrays of n:16 are `[N, 0]` if no tile is n:16.
        """
        sparse, pattern = self.sparse.contiguous().numpy(), codes.pattern.contiguous().numpy()
        if self.kept16 is None:
            return sparse, np.empty((len(sparse), 0), np.uint8), pattern, np.empty((len(sparse), 0), np.int32)
        assert codes.mask16 is not None
        return sparse, self.kept16.contiguous().numpy(), pattern, codes.mask16.contiguous().numpy()

    def _keep16(self, codes: Codes) -> torch.Tensor:
        assert codes.mask16 is not None
        kept: torch.Tensor = _OF_SIXTEEN.keep(codes.mask16)
        return kept
