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


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "1").read_bytes() == write(tmp_path / "2").read_bytes()


def test_a_failed_write_keeps_only_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    before = path.read_bytes()
    with refused(ValueError):
        write_shard(path, SPECS, lambda name: np.zeros(1, np.float16), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1, -22])
def test_truncated_at_any_place(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with refused():
        Shard.open(path)


def header_file(path: Path, header: object, data: bytes) -> Path:
    blob = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(blob)) + blob + data)
    return path


@pytest.mark.parametrize(
    "entry",
    [
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
    ],
)
def test_corrupt_entries(tmp_path: Path, entry: object) -> None:
    path = header_file(tmp_path / "x.safetensors", {"t": entry}, bytes(4))
    with refused():
        Shard.open(path)


@pytest.mark.parametrize(
    "blob", [b"\x02\0\0\0\0\0\0\0[]", b"\x04\0\0\0\0\0\0\0{{{{", b"PK\x03\x04 a zip file"]
)
def test_not_safetensors(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(blob)
    with refused():
        Shard.open(path)


def test_bytes_after_the_last_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes() + b"more")
    with refused():
        Shard.open(path)


@pytest.mark.parametrize("spans", [[(0, 4), (8, 12)], [(0, 8), (4, 12)], [(4, 12)]])
def test_bytes_of_no_tensor_or_of_two(tmp_path: Path, spans: list[tuple[int, int]]) -> None:
    header = {
        f"t{i}": {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        for i, (start, end) in enumerate(spans)
    }
    with refused():
        Shard.open(header_file(tmp_path / "x.safetensors", header, bytes(12)))


@pytest.mark.parametrize("metadata", ["text", ["a"], {"a": 1}])
def test_metadata_that_are_no_texts(tmp_path: Path, metadata: object) -> None:
    with refused():
        Shard.open(header_file(tmp_path / "x.safetensors", {"__metadata__": metadata}, b""))


def test_a_shape_of_infinity(tmp_path: Path) -> None:
    blob = b'{"t":{"dtype":"F16","shape":[1e400],"data_offsets":[0,4]}}'
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(blob)) + blob + bytes(4))
    with refused():
        Shard.open(tmp_path / "x.safetensors")
