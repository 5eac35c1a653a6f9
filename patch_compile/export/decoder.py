"""The decoder as torch.export sees it: flat tensors in and out, an explicit mask and cache."""

from typing import Any

import torch
from torch import Tensor, nn

from masklearn.architectures import cache_argument

__all__ = ["ExportDecoder", "attention_implementation", "build_fake_decoder"]

_ONNX_ATTENTION = "patch_compile_onnx_attention"
_PLAIN_ATTENTION = "patch_compile_plain_attention"


class ExportDecoder(nn.Module):
    """Wraps a causal language model of transformers for tracing.

    Inputs: `input_ids` [batch, sequence], `attention_mask` [batch, total], `position_ids` [batch, sequence]
    (all int64), then key and value of each layer [batch, kv_heads, past, head_dim].
    Outputs: `logits` [batch, sequence, vocab] (or [batch, 1, vocab] when only the last is asked for), then the
    key and value of each layer with the new tokens appended.
    """

    def __init__(self, decoder: nn.Module, *, last_logits_only: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.last_logits_only = last_logits_only

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Run one step: a prefill (past = 0) or a continuation."""
        cache = _cache_from(past)
        output = self.decoder(
            input_ids=input_ids,
            attention_mask=self._masks(attention_mask, input_ids.shape[1]),
            position_ids=position_ids,
            use_cache=True,
            logits_to_keep=1 if self.last_logits_only else 0,
            **{cache_argument(self.decoder): cache},
        )
        return (output.logits, *(t for layer in cache.layers for t in (layer.keys, layer.values)))

    def _masks(self, attention_mask: Tensor, sequence: int) -> Any:
        """Return the mask of every layer, or one mask per kind of layer where the model mixes kinds."""
        config = self.decoder.config
        window = getattr(config, "sliding_window", None)
        layer_types = getattr(config, "layer_types", None)
        if layer_types is None:
            return self._mask(attention_mask, sequence, window)
        masks = {"full_attention": self._mask(attention_mask, sequence, None)}
        if "sliding_attention" in layer_types:
            masks["sliding_attention"] = self._mask(attention_mask, sequence, window)
        return masks

    def _mask(self, attention_mask: Tensor, sequence: int, window: int | None) -> Tensor:
        """Which cache slots each query may read: bool [batch, 1, sequence, total].

        A slot always sees itself, padding too: a row with nothing to read would be NaN after the softmax and
        poison the cache, and what a padding slot computes is read by nobody.
        """
        total = attention_mask.shape[1]
        query = torch.arange(total - sequence, total)[:, None]
        slot = torch.arange(total)[None, :]
        visible = slot < query
        if window is not None:
            visible = visible & (slot > query - window)
        return (visible & attention_mask[:, None, None, :].bool()) | (slot == query)


def _cache_from(past: tuple[Tensor, ...]) -> Any:
    """Fill a cache directly: `update` on an empty layer would concatenate a 1-D empty tensor, which ONNX forbids."""
    from transformers.cache_utils import Cache, DynamicLayer

    layers = []
    for key, value in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values = key, value
        layer.dtype, layer.device, layer.is_initialized = key.dtype, key.device, True
        layers.append(layer)
    return Cache(layers=layers)


def _onnx_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as one ONNX op (opset 23); it groups the query heads by itself."""
    output, *_unused = torch.onnx.ops.attention(query, key, value, attention_mask, scale=scaling)
    return output.transpose(1, 2), None


def _plain_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in MatMul and Softmax; the heads of a group share their key and value by broadcasting.

    The softmax is in fp32, spelled as a cast before it: asked for by `dtype=` it would be exported in fp16.
    """
    batch, heads, sequence, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch, kv_heads, heads // kv_heads, sequence, head_dim)
    scores = (torch.matmul(grouped, key.unsqueeze(2).transpose(-1, -2)) * scaling).float()
    hidden = torch.where(attention_mask, 0.0, torch.finfo(torch.float32).min)
    weights = torch.softmax(scores + hidden.unsqueeze(2), dim=-1).to(query.dtype)
    output = torch.matmul(weights, value.unsqueeze(2))
    return output.reshape(batch, heads, sequence, head_dim).transpose(1, 2), None


def attention_implementation(*, plain_ops: bool) -> str:
    """Name the attention implementation for transformers, registering both of ours first."""
    from transformers import AttentionInterface

    AttentionInterface.register(_ONNX_ATTENTION, _onnx_attention)
    AttentionInterface.register(_PLAIN_ATTENTION, _plain_attention)
    return _PLAIN_ATTENTION if plain_ops else _ONNX_ATTENTION


def build_fake_decoder(config: Any, dtype: torch.dtype, fake_mode: Any, *, plain_ops: bool) -> nn.Module:
    """Build the model with weights that have a shape and no data; only the rotary frequencies are real."""
    from transformers import AutoModelForCausalLM

    with fake_mode:
        decoder: nn.Module = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention_implementation(plain_ops=plain_ops)
        )
    # Built in fake mode its frequencies would be fake too, and end in the graph as a weight no checkpoint has.
    base: Any = decoder.model
    base.rotary_emb = type(base.rotary_emb)(config)
    return decoder.eval()
