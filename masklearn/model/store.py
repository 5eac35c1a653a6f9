"""Stores new values of a checkpoint's tensors, a file per tensor, so that the model need not fit in memory."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.shard import Shard, TensorEntry, numpy_dtype, write_shard

if TYPE_CHECKING:
    from torch import Tensor, dtype

_SUFFIX = ".safetensors"
_LONGEST = 150  # bytes of a file name without its suffix; file systems take 255, and `whole_file` adds to it while it writes
_CUT = "%-"  # no quoted name has it


class WeightStore:
    """Folder of tensors by checkpoint name, in the dtypes and shapes of the checkpoint.

    below: another store for tensors that are not in this store; it is only read.
    """

    def __init__(self, folder: Path, below: "WeightStore | None" = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._below = below

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and self._file(name).is_file():
            return True
        return self._below is not None and name in self._below

    def has_own(self, name: str) -> bool:
        """Returns True if this store itself holds the tensor, not only the store below it."""
        return self._file(name).is_file()

    def names(self) -> list[str]:
        own = {_name(file) for file in self.folder.glob(f"*{_SUFFIX}")}
        return sorted(own if self._below is None else own.union(self._below.names()))

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor into memory. Raises FileNotFoundError if it is not stored."""
        if self._below is not None and not self._file(name).is_file():
            return self._below.read(name)
        return Shard.open(self._file(name)).read(name)

    def put(self, name: str, values: "Tensor", entry: TensorEntry) -> None:
        """Store `values`, rounded to the dtype of the checkpoint's `entry`. They replace earlier values.

        Raises ValueError if the shape differs, and MaskLearnError if a value is not finite in that dtype.
        """
        if tuple(values.shape) != entry.shape:
            raise ValueError(f"{name}: {list(values.shape)} given, the checkpoint has {list(entry.shape)}")
        array = as_array(values, entry.dtype)
        if not bool(np.isfinite(array.astype(np.float32)).all()):
            raise MaskLearnError(
                f"New values of {name} are not finite in {entry.dtype}",
                "The solve or the training diverged, or they exceed what the type holds.",
                "Give more calibration text, or convert the checkpoint to bfloat16.",
            )
        write_shard(self._file(name), {name: (entry.dtype, entry.shape)}, lambda _: array, {})

    def _file(self, name: str) -> Path:
        """Returns the file of a tensor, in the folder itself for every name: names come from the files of strangers."""
        stem = quote(name, safe="")
        if len(stem) > _LONGEST:
            stem = f"{stem[: _LONGEST // 2]}{_CUT}{hashlib.sha256(stem.encode()).hexdigest()[:32]}"
        return self.folder / f"{stem}{_SUFFIX}"


def _name(file: Path) -> str:
    stem = file.name.removesuffix(_SUFFIX)
    return next(iter(Shard.open(file).tensors)) if _CUT in stem else unquote(stem)


def torch_dtype(code: str) -> "dtype":
    """Returns the type of a weight's numbers by its safetensors code."""
    import torch

    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[code]


def as_tensor(array: NDArray[Any]) -> "Tensor":
    """Returns an array as a torch tensor that shares its memory. bf16 and fp8 are types of ml_dtypes in arrays."""
    import torch

    if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        raw = torch.from_numpy(array.view(np.int16 if array.itemsize == 2 else np.uint8))
        return raw.view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array)


def as_array(tensor: "Tensor", code: str) -> NDArray[Any]:
    """Returns the numbers of a tensor, rounded to the type of a safetensors code."""
    import torch

    rounded = tensor.detach().to("cpu", torch_dtype(code)).contiguous()
    array: NDArray[Any] = rounded.view(torch.uint8).numpy().view(numpy_dtype(code))
    return array
