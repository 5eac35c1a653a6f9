"""Reads and writes safetensors files, with one tensor in memory at a time.

The safetensors library can only write tensors that are all in memory, and it writes metadata in hash order, so that the
bytes of equal files differ. Format of a file: 8 bytes of header length (little-endian), JSON header, data.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.durable import whole_file
from masklearn.base.errors import reading
from masklearn.base.printable import shown
from masklearn.base.safe_read import json_object, parse_json, require_file

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_NUMPY = {
    "BOOL": "bool", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4",
    "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
_OF_NUMPY = {np.dtype(name): code for code, name in _NUMPY.items()}
_ML_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_MAX_DIMS = 64  # axes of an array; numpy takes no more
_MAX_SIZE = 2**63 - 1  # numpy counts bytes in int64
_MAX_ELEMENTS = _MAX_SIZE // 8  # the widest type has eight bytes


def numpy_dtype(code: str) -> np.dtype[Any]:
    """Returns the numpy dtype of a safetensors code; bf16 and fp8 are types of ml_dtypes. Raises KeyError if unknown."""
    if code in _NUMPY:
        return np.dtype(_NUMPY[code])
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[code]))
    return dtype


def dtype_code(dtype: np.dtype[Any]) -> str:
    """Returns the safetensors code of a numpy dtype. Raises KeyError if safetensors does not have the type."""
    return _OF_NUMPY[dtype]


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header: safetensors dtype code, shape, and absolute byte offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Shard:
    """Verified header of a safetensors file: the bytes of every tensor exist and fit its shape."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Read and verify the header of `path`. Raises MaskLearnError if the file is truncated or corrupt."""
        with _refusing(path):
            header, base = _read_header(path)
            metadata = header.pop("__metadata__", {})
            if not _is_text(metadata):
                raise ValueError("Its __metadata__ is not a mapping of text to text.")
            tensors: dict[str, TensorEntry] = {}
            for name, fields in header.items():
                tensors[name] = _entry(name, fields, base)
            _check_every_byte(path, tensors.values(), base)
        return cls(path, tensors, metadata)

    def read(self, name: str) -> NDArray[Any]:
        """Read a tensor into memory. Raises KeyError for an unknown name, and MaskLearnError if the file ends early."""
        entry = self.tensors[name]
        dtype = numpy_dtype(entry.dtype)
        count = (entry.end - entry.start) // dtype.itemsize
        with _refusing(self.path), self.path.open("rb") as file:
            file.seek(entry.start)
            return np.fromfile(file, dtype=dtype, count=count).reshape(entry.shape)

    def map(self, name: str) -> NDArray[Any]:
        """Returns a tensor whose bytes are read from the file when they are used, and never written to it."""
        entry = self.tensors[name]
        if entry.start == entry.end:
            return self.read(name)
        raw = np.memmap(self.path, np.uint8, "c", entry.start, (entry.end - entry.start,))
        return np.asarray(raw).view(numpy_dtype(entry.dtype)).reshape(entry.shape)


def write_shard(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    data: Callable[[str], NDArray[Any]],
    metadata: Mapping[str, str],
    like: Path | None = None,
) -> None:
    """Write a safetensors file with one tensor in memory at a time, flush it, and rename it to `path` when it is complete.

    tensors: name to (dtype code, shape), in the order of the file; data: called once per name in that order, returns the
    tensor; like: a file whose permissions the new file does not exceed. The bytes of the file depend on the arguments only.
    Raises ValueError if a tensor has another size.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, (code, shape) in tensors.items():
        end = offset + _nbytes(code, shape)
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    blob = json.dumps(header, separators=(",", ":")).encode()
    blob += b" " * (-len(blob) % 8)
    with whole_file(path) as part, part.open("wb") as file:
        if like is not None:
            restrict(part, like)
        file.write(struct.pack("<Q", len(blob)) + blob)
        for name, (code, shape) in tensors.items():
            flat = np.ascontiguousarray(data(name)).reshape(-1)
            if flat.nbytes != (nbytes := _nbytes(code, shape)):
                raise ValueError(f"{name}: {flat.nbytes} bytes given, {nbytes} announced")
            file.write(flat.view(np.uint8).data if flat.size else b"")


def restrict(new: Path, like: str | Path) -> None:
    """Remove permissions from a new file that `like` does not give. Its owner may always read and write it."""
    new.chmod(new.stat().st_mode & (Path(like).stat().st_mode | 0o600) & 0o777)


def _nbytes(code: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _BITS[code] // 8


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    size = require_file(path).st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER + 1
        if length > min(_MAX_HEADER, size - 8):
            raise ValueError(f"{size} bytes cannot hold the header it announces.")
        return json_object(parse_json(file.read(length))), 8 + length


def _entry(name: str, fields: Any, base: int) -> TensorEntry:
    code, shape = fields["dtype"], tuple(fields["shape"])
    if code not in _BITS:
        raise ValueError(f"{name!r} has a type that is not one of {', '.join(_BITS)}: {shown(code)}")
    if len(shape) > _MAX_DIMS or not all(map(_is_size, shape)):
        raise ValueError(f"{name!r} has a shape of {shown(list(shape))}")
    if math.prod(n or 1 for n in shape) > _MAX_ELEMENTS:  # as numpy counts them
        raise ValueError(f"{name!r}, {list(shape)}, has more elements than any machine holds")
    start, end = fields["data_offsets"]
    if not (_is_size(start) and _is_size(end)) or end - start != _nbytes(code, shape):
        raise ValueError(f"{name!r}, {code} {list(shape)}, has data_offsets {[start, end]}")
    return TensorEntry(code, shape, base + start, base + end)


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _MAX_SIZE


def _is_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def _check_every_byte(path: Path, entries: Iterable[TensorEntry], base: int) -> None:
    """Refuse a file with bytes of no tensor, or of two, as the format does."""
    end = base
    for entry in sorted(entries, key=lambda tensor: (tensor.start, tensor.end)):
        if entry.start != end:
            kind = "to no tensor" if entry.start > end else "to two tensors"
            raise ValueError(f"Bytes {min(end, entry.start)} to {max(end, entry.start)} belong {kind}.")
        end = entry.end
    size = path.stat().st_size
    if end != size:
        raise ValueError(f"The header describes {end} bytes, the file has {size}.")


def _refusing(path: Path) -> AbstractContextManager[None]:
    return reading(path, "Fetch or write the file again.", what="cannot be read as safetensors")
