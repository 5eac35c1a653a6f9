"""MaskLLM's `mask_compressed.npz` (arXiv 2409.17481): every linear 2:4, bits only, shapes from the model."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import Coverage
from masklearn.checkpoint.naming import linear_name
from masklearn.checkpoint.orientation import from_stored, stored_shape
from masklearn.errors import PatchCompileError
from masklearn.importers.npz import MaskArchive
from masklearn.importers.published import Format, Published, check_known, register

__all__ = ["open_maskllm"]


@register(Format.MASKLLM)
def open_maskllm(source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
    """A key is the name of a weight and `.mask`; its value `np.packbits` of the flat mask, 1 = kept."""
    archive = MaskArchive(source)
    keys: dict[str, str] = {}
    for key in archive.names:
        name = linear_name(checkpoint, key.removesuffix(".mask").removesuffix(".weight"))
        if name in keys:
            raise PatchCompileError(
                f"{source} masks {name} twice", f"As {keys[name]} and as {key}.", "Remove one of them."
            )
        keys[name] = key
    names, ignored = check_known(source, keys, checkpoint, coverage)

    def read(name: str) -> NDArray[np.bool_]:
        bits = archive.read_bits(
            keys[name], stored_shape(checkpoint, f"{name}.weight", coverage.linears[name])
        )
        return from_stored(checkpoint, f"{name}.weight", bits)

    return Published(names, read, archive.sha256, uniform=frozenset(names), ignored=ignored)
