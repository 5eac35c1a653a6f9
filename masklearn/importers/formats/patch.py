"""Imports PATCH's `mask.npz` (arXiv 2509.23410): bits and shape of every masked weight, and JSON about the run.

PATCH made the masks from the zeros of the trained weights. Weights of dense tiles that were zero before training are
therefore zeros of the masks too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError, reading
from masklearn.base.safe_read import json_object, parse_json, sha256_of
from masklearn.importers.base import IMPORTERS, Importer, Published, check_known

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from masklearn.importers.npz import MaskArchive
    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import Coverage

_META, _SHAPE = "__meta__", ".__shape__"
_UNIFORM = "2:4"  # `pattern` of masks whose tiles are all sparse; in a mosaic it is "Dense/2:4 tiles"
_MOST_META = 2**20  # bytes


@IMPORTERS.register
class Patch(Importer):
    """PATCH: `<name>.weight` is `np.packbits` of the flat mask, 1 = kept, and `<name>.weight.__shape__` its shape.

    `__meta__` is JSON text about the run, which may be absent.
    """

    name = "patch"
    summary = "an .npz of PATCH, bits with shapes"

    def detect(self, source: Path) -> str | None:
        """Claims an archive with a shape or the JSON text among its arrays."""
        from masklearn.importers.npz import archive_names

        names = archive_names(source) or []
        shaped = (name for name in names if name == _META or name.endswith(_SHAPE))
        return next((f"an archive that holds {name}" for name in shaped), None)

    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        """Open the archive. All tiles must be 2:4 if the JSON text says so; otherwise tiles may be dense."""
        from masklearn.importers.npz import MaskArchive
        from masklearn.model.naming import from_stored, linear_name, stored_shape

        archive = MaskArchive(source)
        keys = {
            linear_name(checkpoint, key.removesuffix(".weight")): key
            for key in archive.names
            if key != _META and not key.endswith(_SHAPE)
        }
        names, ignored = check_known(source, keys, checkpoint, coverage)
        about = _meta(archive)

        def read(name: str) -> NDArray[np.bool_]:
            shape = stored_shape(checkpoint, f"{name}.weight", coverage.linears[name])
            _check_shape(archive, keys[name], shape)
            return from_stored(checkpoint, f"{name}.weight", archive.read_bits(keys[name], shape))

        uniform = frozenset(names) if about.get("pattern") == _UNIFORM else frozenset()
        base = about.get("base_model")
        return Published(
            names,
            read,
            partial(sha256_of, source),
            uniform=uniform,
            smallest=4,
            ignored=ignored,
            about={"meta": about},
            base_model=base if isinstance(base, str) else None,
        )


def _check_shape(archive: MaskArchive, key: str, shape: tuple[int, ...]) -> None:
    if key + _SHAPE not in archive.names:
        raise MaskLearnError(
            f"{archive.path} gives no shape for {key}",
            f"There is no {key + _SHAPE}.",
            "Give `format` maskllm if MaskLLM wrote the archive; the shapes are then the model's.",
        )
    stored = archive.read(key + _SHAPE, 64)
    if stored.dtype.kind not in "iu" or stored.ravel().tolist() != list(shape):
        raise MaskLearnError(
            f"{key} is {stored.ravel().tolist()} in {archive.path}",
            f"It is {list(shape)} in the model.",
            "Give the model that the masks were made for.",
        )


def _meta(archive: MaskArchive) -> dict[str, Any]:
    """Read the JSON text about the run: repo, base model, sparsity, pattern. Returns {} if it is absent."""
    if _META not in archive.names:
        return {}
    stored = archive.read(_META, _MOST_META)
    text = stored.item() if stored.ndim == 0 else stored.tobytes()
    with reading(f"{_META} in {archive.path}", what="is not a JSON object"):
        return json_object(parse_json(text))
