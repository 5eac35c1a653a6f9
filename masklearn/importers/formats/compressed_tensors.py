"""Imports the bitmasks of compressed-tensors' formats `sparse-24-bitmask` and `sparse-bitmask`.

llm-compressor wrote such Hugging Face directories, and compressed-tensors removed its readers in 2026. Only masks are
imported: the weights to compile are the model's, not the kept values in the source's `X.compressed`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError, reading
from masklearn.importers.base import IMPORTERS, Importer, Published, check_known

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import Coverage

_BITMASK = ".bitmask"
_TWO_FOUR, _ANY = "sparse-24-bitmask", "sparse-bitmask"


@IMPORTERS.register
class CompressedTensors(Importer):
    """compressed-tensors: a weight `X.weight [N, K]` is stored as several tensors.

    They are `X.shape`, `X.bitmask` uint8 `[N, ceil(K/8)]` (lowest bit first, 1 = kept) and `X.compressed`. The latter is
    `[N, K/2]` if every group of 4 keeps two (sparse-24-bitmask), else `[kept]` with `X.row_offsets` (sparse-bitmask). A
    linear that is stored as `X.weight` is dense.
    """

    name = "compressed-tensors"
    summary = "a Hugging Face directory of compressed-tensors (sparse-24-bitmask, sparse-bitmask)"

    def detect(self, source: Path) -> str | None:
        """Claims a Hugging Face directory with a bitmask among its tensors."""
        from masklearn.model.checkpoint import Checkpoint

        names = Checkpoint.open(source, as_stored=True).names() if source.is_dir() else []
        return next((f"it holds {name}" for name in names if name.endswith(_BITMASK)), None)

    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        """Open the directory. Each mask reads its bitmask when asked for, and checks it against the kept values."""
        from masklearn.model.checkpoint import Checkpoint
        from masklearn.model.naming import from_stored, stored_shape

        stored = Checkpoint.open(source, as_stored=True)
        _check_format(stored)
        prefixes = {
            name.removesuffix(_BITMASK).removesuffix(".weight"): name.removesuffix(_BITMASK)
            for name in stored.names()
            if name.endswith(_BITMASK)
        }
        names, ignored = check_known(source, prefixes, checkpoint, coverage)
        with _refusing(stored):
            for name in coverage.linears:
                if name not in prefixes and f"{name}.weight" not in stored:
                    raise ValueError(f"There is neither {name}.weight nor {name}{_BITMASK}.")
        uniform = frozenset(name for name in names if f"{prefixes[name]}.row_offsets" not in stored)

        def read(name: str) -> NDArray[np.bool_]:
            shape = stored_shape(checkpoint, f"{name}.weight", coverage.linears[name])
            with _refusing(stored):
                kept = _bits(stored, prefixes[name], shape)
                _check_values(stored, prefixes[name], kept, uniform=name in uniform)
            return from_stored(checkpoint, f"{name}.weight", kept)

        return Published(names, read, stored.fingerprint, uniform=uniform, ignored=ignored)


def _check_format(stored: Checkpoint) -> None:
    """Raises MaskLearnError for another format. config.json has its name in one of two places, or not at all."""
    from masklearn.model.config_bounds import check_config

    check_config(stored.path / "config.json", stored.config)
    settings: Any = stored.config.get("quantization_config") or stored.config.get("compression_config") or {}
    name = (settings.get("sparsity_config") or stored.config.get("sparsity_config") or {}).get("format")
    if name not in (None, _TWO_FOUR, _ANY):
        raise MaskLearnError(
            f"{stored.path} is compressed as {name!r}",
            f"Masks are imported from {_TWO_FOUR} and {_ANY}.",
            "Give a checkpoint in one of these formats, or an uncompressed checkpoint.",
        )


def _bits(stored: Checkpoint, prefix: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    import numpy as np

    rows, columns = shape
    sizes = stored.read(f"{prefix}.shape").ravel().tolist()
    if sizes != [rows, columns]:
        raise ValueError(f"{prefix} has the shape {sizes}, and in the model {[rows, columns]}.")
    packed = stored.read(f"{prefix}{_BITMASK}")
    if packed.dtype != np.uint8 or packed.shape != (rows, -(-columns // 8)):
        raise ValueError(f"The bitmask of {prefix} is {packed.dtype} {list(packed.shape)}.")
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    if bits[:, columns:].any():
        raise ValueError(f"The bitmask of {prefix} has bits after the last column.")
    return bits[:, :columns].astype(np.bool_)


def _check_values(stored: Checkpoint, prefix: str, kept: NDArray[np.bool_], *, uniform: bool) -> None:
    """Raises ValueError if other values are stored than the bitmask keeps. Groups of 4 are checked later."""
    import numpy as np

    counts, values = kept.sum(axis=1), f"{prefix}.compressed"
    expected = (kept.shape[0], kept.shape[1] // 2) if uniform else (int(counts.sum()),)
    if stored.shape(values) != expected or counts.sum() != math.prod(expected):
        raise ValueError(f"{values} is not {list(expected)}, of which the bitmask keeps {counts.sum()}.")
    if not uniform and not np.array_equal(
        stored.read(f"{prefix}.row_offsets").ravel(), np.cumsum(counts) - counts
    ):
        raise ValueError(f"{prefix}.row_offsets do not fit the bitmask.")


def _refusing(stored: Checkpoint) -> AbstractContextManager[None]:
    fix = "Fetch the checkpoint again, and give the model that it was made from."
    return reading(stored.path, fix, what="holds masks that are not valid")
