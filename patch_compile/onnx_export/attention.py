"""Attention for the exporter: a single ONNX op, or MatMul and Softmax if that op can't be used.

Models that make their own masks ask the implementation for them. Our implementation makes masks without branches on data,
because such branches can't be traced.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from patch_compile.errors import PatchCompileError

_ONNX_ATTENTION = "patch_compile_onnx_attention"
_PLAIN_ATTENTION = "patch_compile_plain_attention"
_WITHOUT_EFFECT = ("position_ids", "cache_position")  # tensors that models pass on for other implementations


def attention_implementation(*, plain_ops: bool) -> str:
    """Register both implementations with transformers and return the name of the implementation to use."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name, attention in ((_ONNX_ATTENTION, _onnx_attention), (_PLAIN_ATTENTION, _plain_attention)):
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, _mask)
    return _PLAIN_ATTENTION if plain_ops else _ONNX_ATTENTION


def exchanges_attention(model_class: type) -> bool:
    """True if models of this class of transformers run the attention that their config names, not their own."""
    return hasattr(sys.modules[model_class.__module__], "ALL_ATTENTION_FUNCTIONS")


@contextmanager
def eager_masks() -> Iterator[None]:
    """Give our masks to models with their own attention, as numbers that they add to the scores."""
    from transformers import AttentionMaskInterface

    before = AttentionMaskInterface._global_mapping["eager"]
    AttentionMaskInterface.register("eager", _additive_mask)
    try:
        yield
    finally:
        AttentionMaskInterface.register("eager", before)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Returns a bool mask [batch, 1, query, slot], True for the slots that a query may read; see transformers' `sdpa_mask`.

    Every slot reads itself, padding included: the softmax of a row with nothing to read would be NaN. mask_function: tells
    from the numbers of row, head, query and slot if the query may read the slot; attention_mask: [batch, slot], False for
    padding.
    """
    assert mask_function is not None
    rows, heads = torch.arange(batch_size)[:, None, None, None], torch.arange(1)[None, :, None, None]
    query = (torch.arange(q_length) + q_offset)[None, None, :, None]
    slot = (torch.arange(kv_length) + kv_offset)[None, None, None, :]
    visible = mask_function(rows, heads, query, slot)
    if attention_mask is not None:
        visible = visible & attention_mask[:, None, None, :].bool()
    mask: Tensor = (visible | (query == slot)).expand(batch_size, 1, q_length, kv_length)
    return mask


def _additive_mask(*args: Any, dtype: torch.dtype = torch.float32, **settings: Any) -> Tensor:
    return additive(_mask(*args, **settings), dtype)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0 for the slots that a query may read, and the type's lowest number for others."""
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def _onnx_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as a single ONNX op (opset 23), which handles grouped query heads itself.

    The op's attribute `softcap` is not used. Opset 23 as first published caps the scores after the mask, so a hidden
    token gets the weight exp(-softcap) instead of 0. It was corrected without a new opset (onnx/onnx#7865), so the result
    depends on the version of the runtime. A model with a softcap therefore gets plain operators, and so does a model whose
    values and keys differ in size, for which torch gets the op's shape wrong.
    """
    if softcap is not None or s_aux is not None or value.shape[-1] != query.shape[-1]:
        return _plain_attention(module, query, key, value, attention_mask, scaling, softcap, s_aux, **others)
    _check_known(module, others)
    output, *_unused = torch.onnx.ops.attention(query, key, value, attention_mask, scale=scaling)
    return output.transpose(1, 2), None


def _plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention from MatMul and Softmax. The query heads of a group share their key and value by broadcasting.

    The softmax is in fp32: the scores are cast before it, since a softmax with `dtype=` would be exported in fp16.

    s_aux: gpt-oss' score of a slot that each head may read and that holds nothing, [heads].
    """
    _check_known(module, others)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    batch, heads, sequence, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, sequence, head_dim)
    scores = (torch.matmul(grouped, key.unsqueeze(2).transpose(-1, -2)) * scale).float()
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = torch.where(attention_mask, 0.0, torch.finfo(torch.float32).min)
    scores = scores + hidden.unsqueeze(2)
    if s_aux is not None:
        sink = s_aux.float().reshape(1, kv_heads, heads // kv_heads, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, dim=-1).to(query.dtype)
    if s_aux is not None:
        weights = weights[..., :-1]
    output = torch.matmul(weights, value.unsqueeze(2))
    return output.reshape(batch, heads, sequence, value.shape[-1]).transpose(1, 2), None


def _check_known(module: nn.Module, others: dict[str, Any]) -> None:
    """Raise PatchCompileError for a tensor that changes attention in an unknown way."""
    unknown = [
        name for name, value in others.items() if isinstance(value, Tensor) and name not in _WITHOUT_EFFECT
    ]
    if unknown:
        raise PatchCompileError(
            f"The attention of {type(module).__name__} can't be exported",
            f"It reads {unknown[0]}, and the exporter knows only keys, values, a mask and attention sinks (s_aux).",
            "Use a model of another architecture, or export this model yourself and give the ONNX file.",
        )
