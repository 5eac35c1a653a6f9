"""Writers of published formats, byte by byte from their description, and random masks for them."""

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import grid_shape
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import Coverage
from tests.masklearn.edits import edited_weights
from tests.masklearn.mask_sets import random_masks

Bits = NDArray[np.bool_]
Tile = tuple[int, int]


def mosaic(rng: np.random.Generator, shape: Tile, tile: Tile, sparse: float = 0.5) -> LinearMask:
    """A random hybrid mask whose map, if it has more than one tile, is neither all dense nor all sparse."""
    tiles = rng.random(grid_shape(shape, tile)) < sparse
    if tiles.size > 1:
        tiles.flat[:2] = [True, False]
    return LinearMask.from_candidate(
        tile, tiles, rng.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    )


def mosaics(coverage: Coverage, tile: Tile, seed: int = 0) -> dict[str, LinearMask]:
    """Random masks of all covered linears."""
    rng = np.random.default_rng(seed)
    return {name: mosaic(rng, shape, tile) for name, shape in coverage.linears.items()}


def uniform(coverage: Coverage, tile: Tile = (128, 128)) -> dict[str, LinearMask]:
    """Random masks of all covered linears in which every tile is 2:4."""
    return dict(random_masks(coverage.linears, tile, 1.0))


def pack(bits: NDArray[np.bool_], first_is_high: bool) -> bytes:
    """Pack eight 0/1 values into a byte; the last byte is filled with zeros."""
    values = [int(bit) for bit in np.ravel(bits)]
    values += [0] * (-len(values) % 8)
    places = range(7, -1, -1) if first_is_high else range(8)
    return bytes(
        sum(bit << place for bit, place in zip(values[i : i + 8], places, strict=True))
        for i in range(0, len(values), 8)
    )


def npy(descr: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Bytes of a .npy file, version 1.0: magic, header length, header, data."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def write_npz(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a zip archive of .npy files with the layout of np.savez_compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, zipfile.ZIP_DEFLATED)
    return path


def maskllm_members(keeps: Mapping[str, Bits]) -> dict[str, bytes]:
    """Members `X.weight.mask`: bits without a shape, the highest bit first."""
    packed = {name: pack(keep, first_is_high=True) for name, keep in keeps.items()}
    return {f"{name}.weight.mask": npy("|u1", (len(data),), data) for name, data in packed.items()}


def patch_members(keeps: Mapping[str, Bits], meta: dict[str, str] | None = None) -> dict[str, bytes]:
    """Members `__meta__`, and the bits and shape of each weight."""
    text = json.dumps(meta or {"pattern": "Dense/2:4 tiles"})
    members = {"__meta__": npy(f"<U{len(text)}", (), text.encode("utf-32-le"))}
    for name, keep in keeps.items():
        data = pack(keep, first_is_high=True)
        members[f"{name}.weight"] = npy("|u1", (len(data),), data)
        members[f"{name}.weight.__shape__"] = npy("<i8", (2,), struct.pack("<2q", *keep.shape))
    return members


def publish_patch(path: Path, checkpoint: Checkpoint, keeps: Mapping[str, Bits], base_model: str) -> Path:
    """Write mask.npz as PATCH's scripts/release/build_release.py does (github.com/Paramathic/patch, July 2026).

    It takes the zeros of the pruned weights of all matrices in the blocks.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name in checkpoint.names():
        weight = checkpoint.read(name)
        if name.endswith(".weight") and weight.ndim == 2 and ".layers." in name:
            kept = weight * keeps.get(name.removesuffix(".weight"), True) != 0
            arrays[name] = np.packbits(kept.reshape(-1))
            arrays[f"{name}.__shape__"] = np.array(kept.shape, np.int64)
    meta = {
        "repo": "tiny-PATCH-25Sparse",
        "base_model": base_model,
        "method": "PATCH",
        "variant": "PATCH-Joint",
        "sparsity": "25%",
        "pattern": "Dense/2:4 tiles",
        "format": "bit-packed uint8 (np.packbits); unpack with np.unpackbits",
        "measured_sparsity": 0.25,
    }
    np.savez_compressed(path, __meta__=np.array(json.dumps(meta)), **arrays)
    return path


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write a safetensors file: header length, JSON header, data."""
    header, body = {}, io.BytesIO()
    for name, (dtype, shape, data) in tensors.items():
        start = body.tell()
        body.write(data)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, body.tell()]}
    blob = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(blob)) + blob + body.getvalue())


def raw_tensors(checkpoint: Checkpoint) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """All tensors of a checkpoint, to change and write again."""
    return {
        name: (checkpoint.entry(name).dtype, checkpoint.shape(name), checkpoint.read(name).tobytes())
        for name in checkpoint.names()
    }


def compressed(keep: Bits, values: NDArray[np.float32]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Tensors of one weight: `sparse-24-bitmask` when every group keeps two, else `sparse-bitmask`."""
    rows, columns = keep.shape
    bitmask = b"".join(pack(row, first_is_high=False) for row in keep)
    kept = [value for row, mask in zip(values, keep, strict=True) for value in row[mask]]
    counts = [int(row.sum()) for row in keep]
    two_four = bool((keep.reshape(rows, -1, 4).sum(axis=-1) == 2).all())
    tensors = {
        "shape": ("I64", (2, 1), struct.pack("<2q", rows, columns)),
        "bitmask": ("U8", (rows, -(-columns // 8)), bitmask),
        "compressed": (
            "F32",
            (rows, columns // 2) if two_four else (len(kept),),
            struct.pack(f"<{len(kept)}f", *kept),
        ),
    }
    if not two_four:
        offsets = [sum(counts[:i]) for i in range(rows)]
        tensors["row_offsets"] = ("I64", (rows,), struct.pack(f"<{rows}q", *offsets))
    return tensors


def write_compressed(
    folder: Path, checkpoint: Checkpoint, keeps: Mapping[str, Bits], config: dict[str, object] | None = None
) -> Path:
    """Write a compressed-tensors directory of a model in which the weights of `keeps` are compressed."""
    folder.mkdir()
    tensors = raw_tensors(checkpoint)
    for name, keep in keeps.items():
        values = checkpoint.read(f"{name}.weight").astype(np.float32)
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{kind}": tensor for kind, tensor in compressed(keep, values).items()}
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(checkpoint.config | (config or {})))
    return folder


def write_pruned(folder: Path, checkpoint: Checkpoint, keeps: Mapping[str, Bits]) -> Path:
    """Write a Hugging Face directory with zeros of either sign where a mask zeroes weights."""
    shutil.copytree(checkpoint.path, folder)
    with edited_weights(folder) as tensors:
        for name, keep in keeps.items():
            tensors[f"{name}.weight"][torch.from_numpy(~keep)] *= 0  # -0.0 where the weight was negative
    return folder
