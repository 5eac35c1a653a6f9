"""Tiny quantised weights of each format, and what config.json says of them: sound files, which are mutated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIGS", "TENSORS"]

_Arrays = dict[str, NDArray[Any]]
_N, _K = 8, 128
_RNG = np.random.default_rng(2)


def _words(*shape: int) -> NDArray[np.int32]:
    return _RNG.integers(0, 2**32, shape, np.uint32).view(np.int32)


def _scales(*shape: int) -> NDArray[np.float16]:
    return (_RNG.random(shape) + 0.5).astype(np.float16)


def _compressed(bits: int, group: int | None, form: str) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if group else "channel",
        "group_size": group,
    }
    about = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": about}}


def _gptq(bits: int, group: int, zero: int) -> _Arrays:
    groups, zeros = _K // group, np.full((_K // group, _N), zero, np.uint8)
    packed = zeros if bits == 8 else zeros[:, 0::2] | zeros[:, 1::2] << 4
    return {
        "a.qweight": _words(_K * bits // 32, _N),
        "a.scales": _scales(groups, _N),
        "a.qzeros": packed.view(np.int32),
        "a.g_idx": (np.arange(_K) // group).astype(np.int32),
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "ct-int4": _compressed(4, 64, "pack-quantized"),
    "ct-int8": _compressed(8, None, "pack-quantized"),
    "ct-naive": _compressed(8, None, "naive-quantized"),
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False},
    "gptq-int8": {"quant_method": "gptq", "bits": 8, "group_size": 128, "checkpoint_format": "gptq_v2"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False, "version": "gemm"},
}
_SHAPE = np.asarray([_N, _K], np.int64)
TENSORS: dict[str, _Arrays] = {
    "ct-int4": {
        "a.weight_packed": _words(_N, _K // 8),
        "a.weight_scale": _scales(_N, 2),
        "a.weight_shape": _SHAPE,
    },
    "ct-int8": {
        "a.weight_packed": _words(_N, _K // 4),
        "a.weight_scale": _scales(_N, 1),
        "a.weight_shape": _SHAPE,
    },
    "ct-naive": {"a.weight": _words(_N, _K // 4).view(np.int8), "a.weight_scale": _scales(_N, 1)},
    "gptq": _gptq(4, 64, 7),
    "gptq-int8": _gptq(8, 128, 128),
    "awq": {
        "a.qweight": _words(_K, _N // 8),
        "a.scales": _scales(2, _N),
        "a.qzeros": np.full((2, _N // 8), 0x88888888, np.uint32).view(np.int32),
    },
}
