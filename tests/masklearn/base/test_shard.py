import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from masklearn.base.shard import Shard, write_shard
from tests.refusals import refused

ARRAYS = {
    "b": np.arange(6, dtype=np.float16).reshape(2, 3),
    "a": np.arange(5, dtype=ml_dtypes.bfloat16),
    "none": np.zeros((0, 4), np.int32),
}
SPECS = {"b": ("F16", (2, 3)), "a": ("BF16", (5,)), "none": ("I32", (0, 4))}


def write(path: Path) -> Path:
    write_shard(path, SPECS, ARRAYS.__getitem__, {"z": "1", "a": "é"})
    return path


def test_bytes_follow_the_format(tmp_path: Path) -> None:
    blob = write(tmp_path / "x.safetensors").read_bytes()
    length = struct.unpack("<Q", blob[:8])[0]
    assert length % 8 == 0
    header = json.loads(blob[8 : 8 + length])
    assert list(header) == ["__metadata__", "b", "a", "none"]
    assert header["b"] == {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
    assert header["none"]["data_offsets"] == [22, 22]
    assert blob[8 + length :] == ARRAYS["b"].tobytes() + ARRAYS["a"].tobytes()


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    with safe_open(write(tmp_path / "x.safetensors"), "np") as file:
        assert file.metadata() == {"z": "1", "a": "é"}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "x.safetensors")
    shard = Shard.open(tmp_path / "x.safetensors")
    for name, array in ARRAYS.items():
        assert shard.read(name).dtype == array.dtype
        np.testing.assert_array_equal(shard.read(name), array)


def test_a_failed_write_keeps_only_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    before = path.read_bytes()
    with refused(ValueError):
        write_shard(path, SPECS, lambda name: np.zeros(1, np.float16), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1, -22, None])
def test_another_length_is_refused(tmp_path: Path, keep: int | None) -> None:
    path = write(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole + b"more" if keep is None else whole[:keep])
    with refused():
        Shard.open(path)


def blob_of(header: object, size: int = 4) -> bytes:
    blob = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(blob)) + blob + bytes(size)


def span(start: int, end: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


ENTRIES = [
    {"dtype": "F16", "shape": [2], "data_offsets": [0, 2]},
    {"dtype": "F17", "shape": [2], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [2], "data_offsets": [-4, 0]},
    {"shape": [2], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [-2, -1], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [2**62, 4], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [2**40, 2**40, 2**40], "data_offsets": [0, 0]},
    {"dtype": "F16", "shape": [2**62, 4, 0], "data_offsets": [0, 0]},
    {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]},
    {"dtype": "F16", "shape": [1] * 65 + [2], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [2.0], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [True, 2], "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": "2", "data_offsets": [0, 4]},
    {"dtype": "F16", "shape": [2], "data_offsets": ["0", "4"]},
    {"dtype": "F16", "shape": [2], "data_offsets": [0, 4, 8]},
    {"dtype": ["F16"], "shape": [2], "data_offsets": [0, 4]},
    "nonsense",
]
GAPS = [[(0, 4), (8, 12)], [(0, 8), (4, 12)], [(4, 12)]]  # bytes of no tensor or of two


@pytest.mark.parametrize(
    "blob",
    [
        *(blob_of({"t": entry}) for entry in ENTRIES),
        *(blob_of({f"t{start}": span(start, end) for start, end in spans}, 12) for spans in GAPS),
        *(blob_of({"__metadata__": one}, 0) for one in ("text", ["a"], {"a": 1})),
        blob_of(b'{"t":{"dtype":"F16","shape":[1e400],"data_offsets":[0,4]}}'),
        blob_of(b"[]", 0),
        blob_of(b"{{{{", 0),
        b"PK\x03\x04 a zip file",
    ],
)
def test_other_bytes_are_refused(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(blob)
    with refused():
        Shard.open(tmp_path / "x.safetensors")
