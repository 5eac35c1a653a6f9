"""Quantises tiny model folders: by the library compressed-tensors, and byte by byte as GPTQ and AWQ lay them out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def searched(weight: Tensor, bits: int, groups: int) -> tuple[Tensor, Tensor]:
    """Returns integers [N, K] and scales [N, groups] of the weight's type, by the largest weight of a group. Scales of every
    other row are negative, as some programs write them to use the lowest integer."""
    n, k = weight.shape
    most = weight.float().reshape(n, groups, -1).abs().amax(-1)
    scales = (most / ((1 << (bits - 1)) - 1)).to(weight.dtype)
    scales[1::2] *= -1
    spread = scales.float().repeat_interleave(k // groups, dim=1)
    half = 1 << (bits - 1)
    return (weight.float() / spread).round().clamp(-half, half - 1).to(torch.int8), scales


def quantised(folder: Path, make: Any, about: dict[str, Any]) -> dict[str, Tensor]:
    """Quantise the linears of a folder's blocks in place; returns the integers.

    make: gives the stored tensors of integers by module name and weight; about: quantization_config.
    """
    file = folder / "model.safetensors"
    tensors: Tensors = load_file(file)
    integers = {}
    for name in [name for name in tensors if "_proj.weight" in name]:
        module, weight = name.removesuffix(".weight"), tensors.pop(name)
        integers[module], parts = make(weight)
        tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    save_file(tensors, file, {"format": "pt"})
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": about}))
    return integers


def scheme(bits: int, group: int | None, **more: Any) -> dict[str, Any]:
    """A quantization_config of compressed-tensors; group: None for a scale of each row."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "group_size": group} | more
    weights.setdefault("strategy", "group" if group else "channel")
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def compressed_tensors(folder: Path, about: dict[str, Any]) -> dict[str, Tensor]:
    """Write a folder by the library's own compressor of `about["format"]`."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationScheme

    group = about["config_groups"]["group_0"]
    of = QuantizationScheme.model_validate(group)
    assert of.weights is not None
    bits, size = of.weights.num_bits, of.weights.group_size
    compressor = BaseCompressor.get_value_from_registry(about["format"])

    def make(weight: Tensor) -> tuple[Tensor, Tensors]:
        _, scales = searched(weight, bits, weight.shape[1] // size if size else 1)
        parts = compressor.compress({"weight": weight, "weight_scale": scales}, of)
        if "weight" in parts:
            return parts["weight"], parts
        return unpack_from_int32(parts["weight_packed"], bits, weight.shape), parts

    return quantised(folder, make, about)


def sparse(folder: Path, name: str) -> None:
    """Store the 8-bit weights of a quantised folder as a sparse format of compressed-tensors 0.14 does."""
    file, config = folder / "model.safetensors", folder / "config.json"
    tensors: Tensors = load_file(file)
    for weight in [
        name for name, tensor in tensors.items() if tensor.element_size() == 1 and tensor.dim() == 2
    ]:
        module, whole = weight.removesuffix(".weight"), tensors.pop(weight)
        raw = whole.view(torch.int8)
        kept = raw & 127 != 0 if whole.is_floating_point() else raw != 0
        if name == "sparse-24-bitmask":  # every group keeps two
            order = (raw.reshape(-1, 4) & 127).short() * kept.reshape(-1, 4) + kept.reshape(-1, 4).short()
            top = order.topk(2).indices
            kept = torch.zeros_like(order, dtype=torch.bool).scatter(-1, top, True).reshape(raw.shape)
        values = raw[kept].view(whole.dtype)
        counts = kept.sum(1)
        bits = np.packbits(kept.numpy(), axis=1, bitorder="little")
        tensors |= {
            f"{module}.bitmask": torch.from_numpy(bits),
            f"{module}.shape": torch.tensor([*raw.shape])[:, None],
        }
        if name == "sparse-24-bitmask":
            tensors[f"{module}.compressed"] = values.reshape(len(raw), -1)
        else:
            tensors |= {
                f"{module}.compressed": values,
                f"{module}.row_offsets": (counts.cumsum(0) - counts)[:, None],
            }
    save_file(tensors, file, {"format": "pt"})
    about = json.loads(config.read_text())
    about["quantization_config"]["sparsity_config"] = {"format": name, "sparsity_structure": "2:4"}
    config.write_text(json.dumps(about))


def marlin24(folder: Path, bits: int, group: int | None) -> dict[str, Tensor]:
    """Write a folder as compressed-tensors 0.14 does in its format marlin-24; the two least of each 4 integers are 0."""

    def make(weight: Tensor) -> tuple[Tensor, Tensors]:
        n, k = weight.shape
        integers, scales = searched(weight, bits, k // group if group else 1)
        grouped = integers.reshape(n, -1, 4)
        least = weight.abs().reshape(n, -1, 4).argsort(-1)[..., :2]
        integers = grouped.scatter(-1, least, 0).reshape(n, k)
        places = weight.abs().reshape(n, -1, 4).argsort(-1)[..., 2:].sort(-1).values
        kept = integers.reshape(n, -1, 4).gather(-1, places).reshape(n, k // 2).numpy()
        codes = (places[..., 0] | places[..., 1] << 2).numpy().reshape(n, -1, 4)
        meta = np.zeros(n * k // 16, np.uint16)
        for row in range(n):
            for word in range(k // 16):
                meta[_marlin_meta(n, row, word)] = sum(
                    int(code) << 4 * i for i, code in enumerate(codes[row, word])
                )
        tiles = (kept.T.astype(np.int64) + (1 << (bits - 1))).reshape(k // 32, 16, n // 16, 16).swapaxes(1, 2)
        order = [_marlin_place(i, bits) for i in range(1024)]
        fields = tiles.reshape(-1, 1024)[:, order].reshape(k // 32, -1)
        stored = scales.T.half()
        if group and group < k // 2:  # the library counts kept columns
            stored = stored.reshape(-1, 8)[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(stored.shape)
        return integers, {
            "weight_packed": _words(fields, bits),
            "scale_packed": stored,
            "meta": torch.from_numpy(meta.view(np.int16).reshape(k // 32, 2 * n)),
        }

    return quantised(folder, make, scheme(bits, group) | {"format": "marlin-24"})


def _marlin_place(i: int, bits: int) -> int:
    """The place of the i-th stored integer in 4 tiles [4, 16 kept, 16 rows]: a lane holds 32 of them."""
    turn = [0, 2, 4, 6, 1, 3, 5, 7] if bits == 4 else [0, 2, 1, 3]
    i = i // len(turn) * len(turn) + turn[i % len(turn)]
    lane, of_lane = divmod(i, 32)
    row, of_row = divmod(of_lane, 8)
    kept = lane % 4 * 2 + of_row % 2 + of_row % 4 // 2 * 8
    return lane // 8 * 256 + kept * 16 + lane // 4 % 2 * 8 + of_row // 4 * 4 + row


def _marlin_meta(n: int, row: int, word: int) -> int:
    """The place of the metadata of 16 columns of a row, by reorder_meta() of CUTLASS."""
    row = row // 64 * 64 + row % 2 * 2 + row % 8 // 4 + row % 4 // 2 * 32 + row % 64 // 8 * 4
    if row % 2 != word % 2:
        row, word = (row + 1, word - 1) if word % 2 else (row - 1, word + 1)
    return word // 2 * n * 2 + row * 2 + word % 2


def gptq(folder: Path, bits: int, group: int, *, v2: bool = False, **more: Any) -> dict[str, Tensor]:
    """Write a folder as GPTQ does, with the zero point 2^(bits-1). group: -1 for a scale of each row."""
    zero = (1 << (bits - 1)) - (not v2)

    def make(weight: Tensor) -> tuple[Tensor, Tensors]:
        n, k = weight.shape
        size = k if group == -1 else group
        integers, scales = searched(weight, bits, k // size)
        stored = (integers.numpy().astype(np.int64) + (1 << (bits - 1))).T
        return integers, {
            "qweight": _words(stored.T, bits).T,
            "scales": scales.T,
            "qzeros": _words(np.full((k // size, n), zero), bits),
            "g_idx": torch.arange(k, dtype=torch.int32) // size,
        }

    about = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": True, "desc_act": False}
    return quantised(folder, make, about | ({"checkpoint_format": "gptq_v2"} if v2 else {}) | more)


def awq(folder: Path, group: int, **more: Any) -> dict[str, Tensor]:
    """Write a folder as AWQ does in its layout gemm: with the zero point 8, or with `zero_point` true with others."""

    def make(weight: Tensor) -> tuple[Tensor, Tensors]:
        n, k = weight.shape
        integers, scales = searched(weight, 4, k // group)
        zeros = np.full((k // group, n), 8)
        if more.get("zero_point"):
            zeros = np.random.default_rng(n).integers(0, 16, zeros.shape)
        return integers, {
            "qweight": awq_words(integers.numpy().T.astype(np.int64) + 8),
            "scales": scales.T,
            "qzeros": awq_words(zeros),
        }

    about = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": False, "version": "gemm"}
    return quantised(folder, make, about | more)


def awq_words(stored: NDArray[Any]) -> Tensor:
    """Pack [rows, N] along N, in the order of AutoAWQ: nibble i of a word holds neighbour (0, 2, 4, 6, 1, 3, 5, 7)[i]."""
    ordered = stored.reshape(stored.shape[0], -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
    return _words(ordered.reshape(stored.shape), 4)


def _words(stored: NDArray[Any], bits: int) -> Tensor:
    """Pack [rows, columns] along the columns into int32, the lowest bits first."""
    per = 32 // bits
    fields = stored.astype(np.int64).reshape(stored.shape[0], -1, per)
    words = sum(fields[..., i] << (bits * i) for i in range(per))
    return torch.from_numpy(np.asarray(words, np.uint32).view(np.int32).copy())
