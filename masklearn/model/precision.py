"""Decides if linears compute in bf16, which must be native to the device, and keeps attention on CPUs in fp32."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION = "sdpa_fp32_on_cpu"


def keep_attention_in_fp32(model: Any) -> None:
    """Make the model's `sdpa` compute in fp32 under autocast on a CPU. On other devices nothing changes."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ATTENTION)


def computes_in_bf16(precision: str, device: torch.device) -> bool:
    """Returns True if linears compute in bf16 under autocast.

    precision: "bf16", "fp32", or "auto" for bf16 if the device computes in it natively. A CPU without native bf16 converts
    to fp32 and back, which is slower than fp32. With AVX512-BF16 (AMD EPYC, Zen 4) a matmul of SmolLM2-135M takes 0.47 of
    its fp32 time.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Compute `sdpa`, in fp32 on a CPU.

    On a CPU fp32 is as fast as bf16 (torch 2.13, AVX512-BF16), and its results are closer to the dense model's.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, mask, **settings)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), mask, **settings
        )
        return output, None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
