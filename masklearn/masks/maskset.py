"""Hybrid masks of all covered linears of a model, and their file format. Learning writes them and compiling reads them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError, said
from masklearn.base.safe_read import parse_json
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import BY_CODE
from masklearn.masks.linear_mask import LinearMask, weights_by_kind, zeroed_weights
from masklearn.masks.record import MaskRecord
from masklearn.masks.stored import (
    FORMAT,
    MIXED,
    PLAIN,
    VERSION,
    WITH_SIX_EIGHT,
    Stored,
    check_format,
    damaged,
    finite_ratio,
    has_six_eight,
    specs_of,
    stored_folds,
    stored_grid,
    stored_mask,
    stored_orders,
    to_nibbles,
)
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16


class MaskSet(Mapping[str, LinearMask]):
    """Hybrid masks by linear (its checkpoint name without `.weight`), with a record of how they were made.

    A loaded set reads a mask's pattern at each access, because the patterns of a 7B model take 650 MB.
    """

    def __init__(
        self,
        masks: Mapping[str, LinearMask],
        *,
        method: str,
        seed: int,
        base_model: str,
        base_sha256: str,
        ratio_asked: float,
        record: MaskRecord | None = None,
        orders: Mapping[str, NDArray[np.int32]] | None = None,
        grids: Mapping[str, Grid] | None = None,
        folds: Mapping[str, NDArray[np.int8]] | None = None,
    ) -> None:
        """method: name of the mask method; base_model, base_sha256: name and fingerprint of the model; ratio_asked: ratio
        that was asked for; record: record of how the masks were made, which callers may complete until the set is saved;
        orders: order of hidden channels by linear, if they were permuted before the masks were learned (see
        `permute.Permuted`). The masks then do not fit the base model's own weights; grids: grids of the quantised linears,
        on which the weights lie that belong to the masks; folds: exponents e of channels that were scaled before the masks
        were learned (see `smooth.smooth`), by name of a tensor: `.rows` for rows that were multiplied by 2^-e, `.columns`
        for columns that were multiplied by 2^e.
        """
        self.method = method
        self.seed = seed
        self.base_model = base_model
        self.base_sha256 = base_sha256
        self.ratio_asked = ratio_asked
        self.record = record or MaskRecord()
        self.orders: dict[str, NDArray[np.int32]] = dict(orders or {})
        self.grids: dict[str, Grid] = dict(grids or {})
        self.folds: dict[str, NDArray[np.int8]] = dict(folds or {})
        self._masks: dict[str, LinearMask | Stored] = dict(masks)
        self._shard: Shard | None = None

    def __getitem__(self, name: str) -> LinearMask:
        mask = self._masks[name]
        return mask if isinstance(mask, LinearMask) else self._read(name, mask)

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def weights(self) -> int:
        """Number of weights of all covered linears."""
        return sum(mask.shape[0] * mask.shape[1] for mask in self._masks.values())

    @property
    def zeroed(self) -> int:
        """Number of weights zeroed by pattern."""
        return sum(zeroed_weights(m.kinds, m.shape, m.tile) for m in self._masks.values())

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights by pattern, over the covered linears; 0.0 for an empty set."""
        return self.zeroed / self.weights if self._masks else 0.0

    @property
    def bytes_per_weight(self) -> float:
        """Average bytes of a covered 16-bit weight in packed slabs; for an empty set, bytes of a dense weight."""
        counts = self.by_kind()
        total = sum(counts.values())
        return sum(kind.bytes_per_weight * n for kind, n in counts.items()) / total if total else BYTES_DENSE

    @property
    def packed_bytes_per_weight(self) -> float:
        """Bytes of a covered weight in packed slabs, of its own weight type, on average; 2 for an empty set."""
        total = 0.0
        for name, mask in self._masks.items():
            weights = self.grids[name].type if name in self.grids else FLOAT16
            counts = weights_by_kind(mask.kinds, mask.shape, mask.tile)
            total += sum(kind.bytes_of(weights) * count for kind, count in counts.items())
        return total / self.weights if self._masks else BYTES_DENSE

    @property
    def plain(self) -> bool:
        """True for 16-bit weights in dense and 2:4 tiles, without channels that were scaled."""
        others = (mask.others for mask in self._masks.values())
        return not (self.grids or self.folds) and all(codes is None or not codes.any() for codes in others)

    def by_kind(self) -> dict[TileKind, int]:
        """Returns the number of weights in tiles of each kind that the set has, in the table's order."""
        linears = [weights_by_kind(m.kinds, m.shape, m.tile) for m in self._masks.values()]
        counts = {kind: sum(one.get(kind, 0) for one in linears) for kind in BY_CODE.values()}
        return {kind: count for kind, count in counts.items() if count}

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Returns (N, K) of every linear. Reads no patterns."""
        return {name: mask.shape for name, mask in self._masks.items()}

    def tile_sizes(self) -> dict[str, tuple[int, int]]:
        """Returns (rows, columns) of the tiles of every linear. Reads no patterns."""
        return {name: mask.tile for name, mask in self._masks.items()}

    def kind_maps(self) -> dict[str, NDArray[np.uint8]]:
        """Returns the kinds of the tiles of every linear, codes of `kinds.table` `[grid]`. Reads no patterns."""
        return {name: mask.kinds for name, mask in self._masks.items()}

    def check_covers(self, linears: Mapping[str, tuple[int, int]]) -> None:
        """Raises MaskLearnError unless the set has exactly the linears `linears` (name to shape)."""
        shapes = self.shapes()
        faults = [f"{name} is not in the masks" for name in linears if name not in shapes]
        faults += [f"{name} is not a covered linear of the model" for name in shapes if name not in linears]
        faults += [
            f"{name} is {list(shapes[name])} in the masks and {list(shape)} in the model"
            for name, shape in linears.items()
            if name in shapes and shapes[name] != tuple(shape)
        ]
        if faults:
            more = f" (and {len(faults) - 4} more)" if len(faults) > 4 else ""
            raise MaskLearnError(
                f"These masks were made for another model or coverage: {self.base_model}",
                "; ".join(faults[:4]) + more,
                "Learn masks for this model, or give the same include and exclude as when they were learned.",
            )

    def save(self, path: str | Path) -> None:
        """Write the set to `path`. Files of equal sets have equal bytes."""
        specs: dict[str, tuple[str, tuple[int, ...]]] = {
            f"{name}.order": ("I32", order.shape) for name, order in sorted(self.orders.items())
        }
        specs |= {name: ("I8", exponents.shape) for name, exponents in sorted(self.folds.items())}
        specs |= {f"{name}.scales": ("F32", grid.scales.shape) for name, grid in sorted(self.grids.items())}
        eights = any(has_six_eight(mask) for mask in self._masks.values())
        parts = WITH_SIX_EIGHT if eights else PLAIN if self.plain else MIXED
        for name in sorted(self._masks):
            specs |= specs_of(name, self._masks[name], parts)
        write_shard(Path(path), specs, self._encoded, self._metadata())

    @classmethod
    def load(cls, path: str | Path) -> "MaskSet":
        """Open a file that `save` wrote.

        Raises MaskLearnError if it is missing, truncated, inconsistent, or of another format version.
        """
        path = Path(path)
        if not path.is_file():
            raise MaskLearnError(
                f"No mask file at {path}", "There is no such file.", "Give the path of a masks.safetensors."
            )
        shard = Shard.open(path)
        check_format(path, shard)
        try:
            meta = shard.metadata
            masks = cls(
                {},
                method=meta["method"],
                seed=int(meta["seed"]),
                base_model=meta["base_model"],
                base_sha256=meta["base_sha256"],
                ratio_asked=finite_ratio(meta["ratio_asked"]),
                record=MaskRecord.of_metadata(parse_json(meta["extra"])),
            )
            linears = parse_json(meta["linears"])
            for name, about in linears.items():
                masks._masks[name] = stored_mask(shard, name, about)
                if "weights" in about:
                    masks.grids[name] = stored_grid(shard, name, about)
            masks.orders.update(stored_orders(shard))
            masks.folds.update(stored_folds(shard))
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise damaged(path, f"Its metadata do not describe its tensors: {said(error)}") from error
        masks._shard = shard
        return masks

    def _metadata(self) -> dict[str, str]:
        linears: dict[str, dict[str, Any]] = {
            name: {"shape": m.shape, "tile": m.tile} for name, m in sorted(self._masks.items())
        }
        for name, grid in self.grids.items():
            linears[name]["weights"] = grid.type.name
            if grid.activations is not None:
                linears[name]["activations"] = grid.activations.model_dump(exclude_none=True)
        return {
            "format": FORMAT,
            "version": VERSION,
            "linears": json.dumps(linears, separators=(",", ":")),
            "ratio_asked": repr(float(self.ratio_asked)),
            "ratio": repr(self.ratio),
            "method": self.method,
            "seed": str(self.seed),
            "base_model": self.base_model,
            "base_sha256": self.base_sha256,
            "extra": json.dumps(self.record.as_metadata(), sort_keys=True),
        }

    def _encoded(self, tensor: str) -> NDArray[Any]:
        if tensor in self.folds:
            return self.folds[tensor]
        name, kind = tensor.rsplit(".", 1)
        if kind == "order":
            return self.orders[name]
        if kind == "scales":
            return self.grids[name].scales
        if kind == "kinds":  # no patterns are read for kinds and tiles
            return self._masks[name].kinds
        if kind == "tiles":
            return np.packbits(self._masks[name].tiles, bitorder="little")
        mask = self[name]
        return to_nibbles(mask.pattern) if kind == "pattern" else getattr(mask, kind)

    def _read(self, name: str, stored: Stored) -> LinearMask:
        assert self._shard is not None
        try:
            return stored.read(self._shard, name)
        except ValueError as error:
            raise damaged(self._shard.path, f"{name}: {error}") from error


def grids_of(masks: Mapping[str, Any]) -> Mapping[str, Grid]:
    """Returns the grids of quantised linears; none for masks without a record of them."""
    return masks.grids if isinstance(masks, MaskSet) else {}
