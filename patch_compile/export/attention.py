"""Attention for the exporter: one ONNX op, or MatMul and Softmax if that op can't be used."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["attention_implementation"]

_ONNX_ATTENTION = "patch_compile_onnx_attention"
_PLAIN_ATTENTION = "patch_compile_plain_attention"


def attention_implementation(*, plain_ops: bool) -> str:
    """Register both implementations with transformers and return the name of the one to use."""
    from transformers import AttentionInterface

    AttentionInterface.register(_ONNX_ATTENTION, _onnx_attention)
    AttentionInterface.register(_PLAIN_ATTENTION, _plain_attention)
    return _PLAIN_ATTENTION if plain_ops else _ONNX_ATTENTION


def _onnx_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as one ONNX op (opset 23), which handles grouped query heads itself.

    The op's attribute `softcap` is not used. Opset 23 as first published caps the scores after the mask, so a hidden
    token gets the weight exp(-softcap) instead of 0. It was corrected without a new opset (onnx/onnx#7865), so the result
    depends on the version of the runtime. A model with a softcap gets plain operators instead.
    """
    if softcap is not None:
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        return _plain_attention(module, query, key, value, attention_mask, scale, softcap)
    output, *_unused = torch.onnx.ops.attention(query, key, value, attention_mask, scale=scaling)
    return output.transpose(1, 2), None


def _plain_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention from MatMul and Softmax. The query heads of a group share their key and value by broadcasting.

    The softmax is in fp32: the scores are cast before it, since a softmax with `dtype=` would be exported in fp16.
    """
    batch, heads, sequence, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, sequence, head_dim)
    scores = (torch.matmul(grouped, key.unsqueeze(2).transpose(-1, -2)) * scaling).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = torch.where(attention_mask, 0.0, torch.finfo(torch.float32).min)
    weights = torch.softmax(scores + hidden.unsqueeze(2), dim=-1).to(query.dtype)
    output = torch.matmul(weights, value.unsqueeze(2))
    return output.reshape(batch, heads, sequence, head_dim).transpose(1, 2), None
