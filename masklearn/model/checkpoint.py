"""Reads the tensors of a Hugging Face model directory, one tensor at a time."""

import copy
import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.safe_read import check_links, sha256_of
from masklearn.base.shard import Shard, TensorEntry, numpy_dtype
from masklearn.model.architectures import ARCHITECTURES, Architecture, architecture_at
from masklearn.model.folder import (
    CONFIG,
    INDEX,
    RoundedInputs,
    read_config,
    read_index,
    single_file,
    stated_rounded_inputs,
)
from masklearn.model.quantised.base import Grids, PackedWeight, dense_config, find_packed
from masklearn.model.store import WeightStore, as_tensor
from masklearn.quant.table import W8A8

if TYPE_CHECKING:
    from torch import Tensor

_State = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class InputSnapshot:
    """The state of files at one moment: size, both times of change, and inode; None for a file that is missing.

    find: lists the files; it is called again by each check, to notice files that were added.
    """

    find: Callable[[], Iterable[Path]]
    states: Mapping[Path, _State]

    @classmethod
    def of(cls, find: Callable[[], Iterable[Path]]) -> "InputSnapshot":
        """Look at the files now. A file's state is taken before `find` looks for the next file."""
        return cls(find, {path: _state(path) for path in find()})

    def check(self) -> None:
        """Raise MaskLearnError if a file changed since it was found, or was added."""
        for path, state in self.states.items():
            if _state(path) != state:
                raise _changed(path, "changed")
        for path in self.find():
            if path not in self.states:
                raise _changed(path, "added")


def _changed(path: Path, how: str) -> MaskLearnError:
    return MaskLearnError(
        f"{path} was {how} while it was being read",
        "A result would mix its old and its new content.",
        "Start again when the file is complete.",
    )


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return None
    # A program can put st_mtime back, but not st_ctime.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


_LARGEST_WEIGHT = 1e15  # the sum of 10^8 squares of such weights is finite in fp32


class Checkpoint:
    """Config and safetensors shards of a model directory.

    Opening verifies every header and reads no weights. Symbolic links (a hub cache consists of them) are resolved, so
    `files` returns real paths.

    A quantised checkpoint (`checkpoint.quantised`) looks like the equivalent dense checkpoint: each quantised weight is a
    tensor of dequantised values, integers and scales do not appear, and `config` has no `quantization_config`.

    conv1d: beginnings of the names of tensors that may be the [K, N] weights of `Conv1D`. Only types in the table of
    architectures have them, so that no model is built to read a weight.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        shards: dict[str, Shard],
        packed: Mapping[str, PackedWeight] | None = None,
        snapshot: InputSnapshot | None = None,
        rounded_inputs: RoundedInputs = MappingProxyType({}),
    ) -> None:
        """Use `Checkpoint.open`. shards: file name in the directory to header; packed: quantised weights by their names in
        the dense checkpoint; snapshot: the files before they were opened, None for now; rounded_inputs: linears (names
        without `.weight`) whose inputs the model rounds to int8 (type w8a8), with the scales of linears that have static
        scales."""
        self.path = path
        self.config = config
        row = ARCHITECTURES.get(str(config.get("model_type")))
        self.conv1d = () if row is None else row.conv1d_tensors()
        self.new: WeightStore | None = None  # tensors with new values
        self.rounded_inputs = dict(sorted(rounded_inputs.items()))
        self._shards = shards
        self._packed = dict(packed or {})
        self._snapshot = snapshot or InputSnapshot.of(lambda: _weight_files(path))
        hidden = {part for weight in self._packed.values() for part in weight.parts}
        self._file_of = {
            name: file for file, shard in shards.items() for name in shard.tensors if name not in hidden
        }
        self._file_of |= {name: weight.file for name, weight in self._packed.items()}

    @classmethod
    def open(cls, model_dir: str | Path, *, as_stored: bool = False) -> "Checkpoint":
        """Open a model directory. as_stored: show the tensors of a quantised checkpoint as they are stored.

        Raises MaskLearnError if config.json or a shard is missing, pickled, truncated or corrupt, for a link that leads
        out of the directory, and for a checkpoint that is quantised in a way that is not read.
        """
        path = Path(model_dir)
        snapshot = InputSnapshot.of(lambda: _weight_files(path))
        config = read_config(path)
        check_links(path)
        index = path / INDEX
        files = read_index(index) if index.is_file() else [single_file(path)]
        shards = {file: Shard.open((path / file).resolve()) for file in files}
        if as_stored:
            return cls(path, config, shards, snapshot=snapshot)
        packed = find_packed(path, config, shards)
        rounded = {**stated_rounded_inputs(path, config), **dict.fromkeys(Grids(packed).of_type(W8A8))}
        return cls(path, dense_config(config), shards, packed, snapshot, rounded)

    @classmethod
    def of_config(cls, model_dir: str | Path) -> "Checkpoint":
        """Open the config.json of a model directory, without any tensor.

        A quantised checkpoint looks like the equivalent dense checkpoint. Raises MaskLearnError if it is missing.
        """
        path = Path(model_dir)
        return cls(path, dense_config(read_config(path)), {})

    def rounding_inputs(self, linears: Collection[str]) -> "Checkpoint":
        """Returns this checkpoint as a model that rounds the inputs of these linears to int8, each token with its own scale,
        and of no others."""
        rounding = copy.copy(self)
        rounding.rounded_inputs = dict.fromkeys(sorted(linears))
        return rounding

    def with_weights(self, new: WeightStore) -> "Checkpoint":
        """Returns this checkpoint with the values of `new` for all tensors that it holds now or later.

        Files, headers and `fingerprint` do not change.
        """
        changed = copy.copy(self)
        changed.new = new
        return changed

    def names(self) -> list[str]:
        """Returns the names of all tensors, sorted."""
        return sorted(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    @cached_property
    def architecture(self) -> Architecture:
        """The row of the model in the table of architectures, or found in its structure. Looked for once.

        Raises MaskLearnError as `architecture_at` does.
        """
        return architecture_at(self.path, self.config, quantised=self.quantised)

    @property
    def described(self) -> bool:
        """True if its tensors are described by config.json only, and none can be read."""
        return CONFIG in self._shards

    @property
    def quantised(self) -> bool:
        """True if weights are stored as integers and scales."""
        return bool(self._packed)

    @property
    def grids(self) -> Grids:
        """Grids of the quantised weights by linear (the name without `.weight`), each read when it is asked for.

        Empty for a dense checkpoint, and without the weights in `dequantised`. Reading a grid raises MaskLearnError if a
        scale is not valid.
        """
        return Grids(self._packed)

    @property
    def dequantised(self) -> list[str]:
        """Names of weights with zero points or of fp8. They are only read: no mosaic holds their grids."""
        return [name for name, weight in self._packed.items() if not weight.has_grid]

    def entry(self, name: str) -> TensorEntry:
        """Returns dtype code, shape and absolute byte offsets of a tensor in `shard_of(name)`. The offsets of a quantised
        weight are 0: its values are not stored."""
        if name in self._packed:
            return TensorEntry(self._packed[name].dtype, self._packed[name].shape, 0, 0)
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
        return self._packed[name].values() if name in self._packed else self._shard(name).read(name)

    def torch(self, name: str, *, mapped: bool = False) -> "Tensor":
        """Read a tensor as a torch tensor on the CPU, in the checkpoint's dtype. mapped: leave it in its file until it is
        used, if it lies there as it is."""
        new = self.new is not None and name in self.new
        as_it_is = mapped and not new and name not in self._packed
        return as_tensor(self._shard(name).map(name) if as_it_is else self.read(name))

    def read_finite(self, name: str) -> "Tensor":
        """Read a weight as an fp32 torch tensor. Raises MaskLearnError if it holds NaN, infinity, or numbers that are so
        large that their squares are not finite."""
        weight = self.torch(name).float()
        # NaN is not below the bound either.
        if weight.numel() and not all(abs(end) < _LARGEST_WEIGHT for end in weight.aminmax()):
            bad = int((~weight.isfinite()).sum())
            many = f"{bad} of its {weight.numel()} weights are not finite"
            raise MaskLearnError(
                f"{name} holds NaN or infinity"
                if bad
                else f"{name} holds weights beyond ±{_LARGEST_WEIGHT:g}",
                f"{many if bad else 'Their squares are not finite in fp32'}, in {self.shard_of(name)}.",
                "The checkpoint is damaged or was saved from a diverged run: use another checkpoint.",
            )
        return weight

    def shard_of(self, name: str) -> Path:
        """Returns the real path of the file that holds a tensor."""
        return self._shard(name).path

    def files(self) -> list[Path]:
        """Returns the real paths of the shards, in the order of their file names."""
        return [shard.path for shard in self._shards.values()]

    def shards(self) -> dict[str, Shard]:
        """Returns the header of every shard by file name in the directory, with the tensors that this checkpoint shows."""
        return {
            file: replace(shard, tensors=self._shown(file, shard)) if self._packed else shard
            for file, shard in self._shards.items()
        }

    def bytes(self) -> int:
        """Returns the bytes of all tensors in their dtypes."""
        entries = ((self.shape(name), self.dtype(name).itemsize) for name in self._file_of)
        return sum(math.prod(shape) * size for shape, size in entries)

    def _shown(self, file: str, shard: Shard) -> dict[str, TensorEntry]:
        """Returns the entries of a shard's tensors in their order. A weight takes the place of its integers."""
        weight_of = {weight.parts[0]: name for name, weight in self._packed.items()}
        names = (weight_of.get(stored, stored) for stored in shard.tensors)
        return {name: self.entry(name) for name in names if self._file_of.get(name) == file}

    def check_unchanged(self) -> None:
        """Raise MaskLearnError if config.json or weights were changed since the directory was opened."""
        self._snapshot.check()

    def fingerprint(self) -> str:
        """Returns the sha256 of the names and bytes of config.json and every shard.

        It takes about 1 s per GB and core, and is computed once.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        total = hashlib.sha256()
        files = [(CONFIG, self.path / CONFIG), *((name, shard.path) for name, shard in self._shards.items())]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
            digests = pool.map(sha256_of, [path for _, path in files])
            for (name, _), digest in zip(files, digests, strict=True):
                total.update(f"{name} {digest}\n".encode())
        return total.hexdigest()

    def _shard(self, name: str) -> Shard:
        return self._shards[self._file_of[name]]


def _weight_files(path: Path) -> Iterator[Path]:
    """Yield the files that say which tensors there are, and all that may hold them."""
    yield from (path / CONFIG, path / INDEX)
    yield from path.glob("*.safetensors")
