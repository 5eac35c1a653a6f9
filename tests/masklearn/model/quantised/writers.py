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
