"""Imports MaskLLM's `mask_compressed.npz` (arXiv 2409.17481): bits of 2:4 linears, without shapes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from masklearn.base.errors import MaskLearnError
from masklearn.base.safe_read import sha256_of
from masklearn.importers.base import IMPORTERS, Importer, Published, check_known

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from masklearn.importers.npz import MaskArchive
    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import Coverage


@IMPORTERS.register
class MaskLlmFile(Importer):
    """MaskLLM: a key is the name of a weight plus `.mask`, its value is `np.packbits` of the flat mask, 1 = kept.

    Every group of 4 must be 2:4. Shapes come from the model.
    """

    name = "maskllm"
    summary = "an .npz of MaskLLM, only bits"
    general = True

    def detect(self, source: Path) -> str | None:
        from masklearn.importers.npz import archive_names

        return None if archive_names(source) is None else "an archive of bits without shapes"

    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        """Open the archive. Each mask is read when it is asked for."""
        from masklearn.importers.npz import MaskArchive
        from masklearn.model.naming import from_stored, stored_shape

        archive = MaskArchive(source)
        keys = _keys(archive, checkpoint)
        names, ignored = check_known(source, keys, checkpoint, coverage)

        def read(name: str) -> NDArray[np.bool_]:
            shape = stored_shape(checkpoint, f"{name}.weight", coverage.linears[name])
            return from_stored(checkpoint, f"{name}.weight", archive.read_bits(keys[name], shape))

        return Published(names, read, partial(sha256_of, source), uniform=frozenset(names), ignored=ignored)


def _keys(archive: MaskArchive, checkpoint: Checkpoint) -> dict[str, str]:
    """Returns the keys of the archive by linear. Raises MaskLearnError if two keys mask the same linear."""
    from masklearn.model.naming import linear_name

    keys: dict[str, str] = {}
    for key in archive.names:
        name = linear_name(checkpoint, key.removesuffix(".mask").removesuffix(".weight"))
        if name in keys:
            raise MaskLearnError(
                f"{archive.path} masks {name} twice",
                f"As {keys[name]} and as {key}.",
                "Remove one of the two keys.",
            )
        keys[name] = key
    return keys
