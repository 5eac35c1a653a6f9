"""Imports the bitmasks of compressed-tensors' formats `sparse-24-bitmask` and `sparse-bitmask`.

llm-compressor wrote such Hugging Face directories, and compressed-tensors removed its readers in 2026. Only masks are
imported: the weights to compile are the model's, not the kept values in the source's `X.compressed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError
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
        for name in coverage.linears:
            if name not in prefixes and f"{name}.weight" not in stored:
                raise _faulty(stored, name, f"There is neither {name}.weight nor {name}{_BITMASK}.")
        uniform = frozenset(name for name in names if f"{prefixes[name]}.row_offsets" not in stored)

        def read(name: str) -> NDArray[np.bool_]:
            shape = stored_shape(checkpoint, f"{name}.weight", coverage.linears[name])
            kept = _bits(stored, prefixes[name], shape)
            if name in uniform:
                _check_two_four(stored, prefixes[name], kept)
            else:
                _check_rows(stored, prefixes[name], kept)
            return from_stored(checkpoint, f"{name}.weight", kept)

        return Published(names, read, stored.fingerprint, uniform=uniform, ignored=ignored)


def _check_format(stored: Checkpoint) -> None:
    """Raises MaskLearnError for another format. config.json has its name in one of two places, or not at all."""
    from masklearn.model.config_bounds import check_config

    check_config(stored.path / "config.json", stored.config)
    settings: Any = stored.config.get("quantization_config") or stored.config.get("compression_config") or {}
    found = (settings.get("sparsity_config") or stored.config.get("sparsity_config") or {}).get("format")
    if found not in (None, _TWO_FOUR, _ANY):
        raise MaskLearnError(
            f"{stored.path} is compressed as {found!r}",
            f"Masks are imported from {_TWO_FOUR} and {_ANY}.",
            "Give a checkpoint in one of these formats, or an uncompressed checkpoint.",
        )


def _bits(stored: Checkpoint, prefix: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    import numpy as np

    rows, columns = shape
    if f"{prefix}.shape" not in stored:
        raise _faulty(stored, prefix, "It has no shape.")
    said = stored.read(f"{prefix}.shape").ravel().tolist()
    if said != [rows, columns]:
        raise _faulty(stored, prefix, f"Its shape is {said}, the model's {[rows, columns]}.")
    packed = stored.read(f"{prefix}{_BITMASK}")
    if packed.dtype != np.uint8 or packed.shape != (rows, -(-columns // 8)):
        raise _faulty(stored, prefix, f"Its bitmask is {packed.dtype} {list(packed.shape)}.")
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    if bits[:, columns:].any():
        raise _faulty(stored, prefix, "Its bitmask has bits after the last column.")
    return bits[:, :columns].astype(np.bool_)


def _check_two_four(stored: Checkpoint, prefix: str, kept: NDArray[np.bool_]) -> None:
    import numpy as np

    from masklearn.masks.tiles import GROUP

    expected = (kept.shape[0], kept.shape[1] // 2)
    if f"{prefix}.compressed" not in stored or stored.shape(f"{prefix}.compressed") != expected:
        raise _faulty(stored, prefix, f"Its values are not {list(expected)}.")
    counts = kept.reshape(kept.shape[0], -1, GROUP).sum(axis=-1)
    if bool((counts != 2).any()):
        row, group = np.argwhere(counts != 2)[0].tolist()
        raise _faulty(
            stored,
            prefix,
            f"Row {row} keeps {counts[row, group]} of k = {group * GROUP} ... {group * GROUP + 3}, not two.",
        )


def _check_rows(stored: Checkpoint, prefix: str, kept: NDArray[np.bool_]) -> None:
    import numpy as np

    counts = kept.sum(axis=1)
    if f"{prefix}.compressed" not in stored or stored.shape(f"{prefix}.compressed") != (int(counts.sum()),):
        raise _faulty(
            stored, prefix, f"Its values are not {int(counts.sum())}, as many as its bitmask keeps."
        )
    if not np.array_equal(stored.read(f"{prefix}.row_offsets").ravel(), np.cumsum(counts) - counts):
        raise _faulty(stored, prefix, "Its row offsets do not fit its bitmask.")


def _faulty(stored: Checkpoint, prefix: str, why: str) -> MaskLearnError:
    return MaskLearnError(
        f"The mask of {prefix} in {stored.path} is not valid",
        why,
        "Fetch the checkpoint again, and give the model that it was made from.",
    )
