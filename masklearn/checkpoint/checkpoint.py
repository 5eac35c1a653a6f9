"""Reads a Hugging Face model directory by tensor name, one tensor at a time."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.store import WeightStore
from masklearn.errors import PatchCompileError
from masklearn.folder_links import check_link, check_links
from masklearn.json_text import read_json
from masklearn.shard import Shard, TensorEntry, numpy_dtype

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LARGEST_WEIGHT = 1e15  # the sum of 10^8 squares of such weights is finite in fp32
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Checkpoint:
    """Config and safetensors shards of a model directory.

    Opening verifies every header and reads no weights. Symbolic links (a hub cache consists of them) are resolved, so
    `files` returns real paths.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        shards: dict[str, Shard],
        new: WeightStore | None = None,
    ) -> None:
        """Use `Checkpoint.open`. shards: file name in the directory to header; new: tensors with new values."""
        self.path = path
        self.config = config
        self.new = new
        self._shards = shards
        self._file_of = {name: file for file, shard in shards.items() for name in shard.tensors}

    @classmethod
    def open(cls, model_dir: str | Path) -> "Checkpoint":
        """Open a model directory.

        Raises PatchCompileError if config.json or a shard is missing, pickled, truncated or corrupt, and for a link that
        leads out of the directory.
        """
        path = Path(model_dir)
        config = _read_config(path)
        check_links(path)
        index = path / _INDEX
        weight_map = _read_index(index) if index.is_file() else None
        files = sorted(set(weight_map.values())) if weight_map is not None else [_single_file(path)]
        shards = {file: Shard.open((path / file).resolve()) for file in files}
        for name, file in (weight_map or {}).items():
            if name not in shards[file].tensors:
                raise PatchCompileError(
                    f"{path / file} does not hold {name}", f"{_INDEX} says it does.", "Fetch the shard again."
                )
        return cls(path, config, shards)

    @classmethod
    def of_config(cls, model_dir: str | Path) -> "Checkpoint":
        """Open the config.json of a model directory, without any tensor. Raises PatchCompileError if it is missing."""
        path = Path(model_dir)
        return cls(path, _read_config(path), {})

    def with_weights(self, new: WeightStore) -> "Checkpoint":
        """Returns this checkpoint with the values of `new` for all tensors that it holds now or later.

        Files, headers and `fingerprint` stay those of the directory.
        """
        other = Checkpoint(self.path, self.config, self._shards, new)
        if "_fingerprint" in self.__dict__:
            other.__dict__["_fingerprint"] = self._fingerprint
        return other

    def names(self) -> list[str]:
        """Returns the names of all tensors, sorted."""
        return sorted(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def entry(self, name: str) -> TensorEntry:
        """Returns dtype code, shape and absolute byte offsets of a tensor in `shard_of(name)`."""
        return self._shard(name).tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape, from the header."""
        return self.entry(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Returns a tensor's numpy dtype, from the header; bf16 and fp8 are types of ml_dtypes."""
        return numpy_dtype(self.entry(name).dtype)

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor into memory."""
        if self.new is not None and name in self.new:
            return self.new.read(name)
        return self._shard(name).read(name)

    def torch(self, name: str) -> "Tensor":
        """Read a tensor as a torch tensor on the CPU, in the checkpoint's dtype."""
        import torch

        array = self.read(name)
        if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            raw = torch.from_numpy(array.view(np.int16 if array.itemsize == 2 else np.uint8))
            return raw.view(getattr(torch, array.dtype.name))
        return torch.from_numpy(array)

    def read_finite(self, name: str) -> "Tensor":
        """Read a weight as an fp32 torch tensor. Raises PatchCompileError if it holds NaN, infinity, or numbers that are so
        large that their squares are not finite."""
        weight = self.torch(name).float()
        if weight.numel() and not all(
            abs(end) < _LARGEST_WEIGHT for end in weight.aminmax()
        ):  # NaN is not below
            bad = int((~weight.isfinite()).sum())
            many = f"{bad} of its {weight.numel()} weights are not finite"
            raise PatchCompileError(
                f"{name} holds NaN or infinity"
                if bad
                else f"{name} holds weights beyond ±{_LARGEST_WEIGHT:g}",
                f"{many if bad else 'Their squares are not finite in fp32'}, in {self.shard_of(name)}.",
                "The checkpoint is damaged or was saved from a diverged run: use another one.",
            )
        return weight

    def shard_of(self, name: str) -> Path:
        """Returns the real path of the file that holds a tensor."""
        return self._shard(name).path

    def files(self) -> list[Path]:
        """Returns the real paths of the shards, in the order of their file names."""
        return [shard.path for shard in self._shards.values()]

    def shards(self) -> dict[str, Shard]:
        """Returns the verified header of every shard by file name in the directory."""
        return dict(self._shards)

    def fingerprint(self) -> str:
        """Returns the sha256 of the names and bytes of config.json and every shard.

        It takes about 1 s per GB and core, and is computed once.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        total = hashlib.sha256()
        names, paths = zip(*self._hashed(), strict=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
            for name, digest in zip(names, pool.map(_sha256, paths), strict=True):
                total.update(f"{name} {digest}\n".encode())
        return total.hexdigest()

    def _hashed(self) -> Iterator[tuple[str, Path]]:
        yield "config.json", self.path / "config.json"
        for name, shard in self._shards.items():
            yield name, shard.path

    def _shard(self, name: str) -> Shard:
        return self._shards[self._file_of[name]]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise PatchCompileError(
            f"No model directory at {path}",
            "A local Hugging Face directory is needed; nothing is downloaded.",
            "Give the path of a directory with config.json and *.safetensors.",
        )
    file = path / "config.json"
    if not file.is_file():
        raise PatchCompileError(
            f"{path} has no config.json", "It is not a Hugging Face model.", "Give the directory it lies in."
        )
    if file.is_symlink():
        check_link(path, file)
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, finite=False)
    except OSError as error:
        raise PatchCompileError(
            f"{file} cannot be read",
            error.strerror or str(error),
            "Check the file's permissions and its disk.",
        ) from error
    except ValueError as error:
        raise PatchCompileError(f"{file} is not JSON", str(error), "Fetch the file again.") from error
    if not isinstance(content, dict):
        raise PatchCompileError(f"{file} is not a JSON object", "", "Fetch the file again.")
    return content


def _read_index(index: Path) -> dict[str, str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise PatchCompileError(f"{index} has no weight_map", "It names no shard.", "Fetch the file again.")
    for tensor, file in weight_map.items():
        if not _is_file_name(file):
            raise PatchCompileError(
                f"{index} places {tensor!r} in {file!r}",
                "A shard is named by a plain file name of the same folder; any other path could make a build read "
                "or overwrite files outside it.",
                "Fetch the checkpoint again from a source that you trust.",
            )
    _check_present(index, weight_map)
    return weight_map


def _is_file_name(value: object) -> bool:
    """Returns True for a printable name that, joined to a folder, stays in that folder."""
    if not isinstance(value, str) or value in ("", ".", ".."):
        return False
    return value.isprintable() and not set(value) & set("/\\")  # NUL is not printable


def _check_present(index: Path, weight_map: dict[str, str]) -> None:
    """Raises PatchCompileError if a shard is missing.

    Names are compared with the folder's listing, because the file system raises an error for a name that is too long.
    """
    present = {entry.name for entry in index.parent.iterdir() if entry.is_file()}
    for file in weight_map.values():
        if file not in present:
            raise PatchCompileError(
                f"The shard {index.parent / file} is missing",
                f"{_INDEX} names it.",
                "Fetch the checkpoint again.",
            )


def _single_file(path: Path) -> str:
    if (path / _SINGLE).is_file():
        return _SINGLE
    pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
    if pickled:
        raise PatchCompileError(
            f"{path} has pickled weights only ({pickled[0]})",
            "A pickle runs code when it is read, so only safetensors are.",
            "Convert it: load it with transformers and call save_pretrained.",
        )
    raise PatchCompileError(
        f"{path} has no weights", f"Neither {_SINGLE} nor {_INDEX} is there.", "Fetch the checkpoint again."
    )
