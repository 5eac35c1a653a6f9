"""Wrappers that show a model to torch.export, with the names and dimensions of their inputs and outputs.

A decoder takes tokens and a cache as flat tensors, an encoder only tokens.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.model.pretrained import cache_argument
from patch_compile.onnx_export.attention import additive
from patch_compile.onnx_io.tensor_names import (
    ATTENTION_MASK,
    HIDDEN,
    INPUT_IDS,
    LOGITS,
    PAST,
    PRESENT,
    TOKEN_INPUTS,
    TOKEN_TYPE_IDS,
)

LARGEST = 2**20  # upper bound of the dynamic dimensions, in tokens or rows


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a traced model, in order.

    arguments: an example of each input; dynamic_shapes: argument of `torch.export` of this name, one entry per argument
    of the traced module (a cache is one argument but many inputs); dimensions: (input, axis, name) of every dimension
    that gets a name in the graph.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[torch.Tensor, ...]
    dynamic_shapes: tuple[Any, ...]
    dimensions: tuple[tuple[int, int, str], ...]


def token_dimensions(*names: str) -> tuple[Any, ...]:
    """Returns a dynamic dimension of size 1 or more for each name."""
    return tuple(torch.export.Dim(name, min=1, max=LARGEST) for name in names)


# All sizes differ and are above 1: torch.export specializes 0 and 1, and merges dimensions of equal size.
_BATCH, _SEQUENCE, _PAST = 2, 3, 5


class ExportDecoder(nn.Module):
    """Wraps a causal language model of transformers for tracing.

    Inputs: `input_ids` [batch, sequence], `attention_mask` [batch, total], `position_ids` [batch, sequence]
    (all int64), then key and value of each layer [batch, kv_heads, past, head_dim].
    Outputs: `logits` [batch, sequence, vocab] ([batch, 1, vocab] with `last_logits_only`), then key and value of each
    layer with the new tokens appended.
    """

    def __init__(self, traced: nn.Module, *, last_logits_only: bool, own_masks: bool) -> None:
        """own_masks: the model makes its masks itself."""
        super().__init__()
        self.traced = traced
        self.last_logits_only = last_logits_only
        self.own_masks = own_masks

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Run one step: a prefill (past = 0) or a continuation."""
        cache = _cache_from(past)
        takes = inspect.signature(self.traced.forward).parameters
        others = {"position_ids": position_ids, "logits_to_keep": 1 if self.last_logits_only else 0}
        output = self.traced(
            input_ids=input_ids,
            attention_mask=attention_mask
            if self.own_masks
            else self._masks(attention_mask, input_ids.shape[1]),
            use_cache=True,
            **{cache_argument(self.traced): cache},
            **{name: value for name, value in others.items() if name in takes},
        )
        logits = output.logits
        if self.last_logits_only and "logits_to_keep" not in takes:
            logits = logits[:, -1:]
        return (logits, *(t for layer in cache.layers for t in (layer.keys, layer.values)))

    def _masks(self, attention_mask: Tensor, sequence: int) -> Any:
        """Returns one mask for all layers, or one per kind of layer if the model mixes kinds."""
        config = self.traced.config
        window = getattr(config, "sliding_window", None)
        layer_types = getattr(config, "layer_types", None)
        if layer_types is None:
            return self._mask(attention_mask, sequence, window)
        masks = {"full_attention": self._mask(attention_mask, sequence, None)}
        if "sliding_attention" in layer_types:
            masks["sliding_attention"] = self._mask(attention_mask, sequence, window)
        return masks

    def _mask(self, attention_mask: Tensor, sequence: int, window: int | None) -> Tensor:
        """Returns a bool mask [batch, 1, sequence, total], True for the cache slots that a query may read.

        Every slot reads itself, padding included. The softmax of a row with nothing to read would be NaN and would
        reach the cache. No other slot reads the output of a padding slot.
        """
        total = attention_mask.shape[1]
        query = torch.arange(total - sequence, total)[:, None]
        slot = torch.arange(total)[None, :]
        visible = slot < query
        if window is not None:
            visible = visible & (slot > query - window)
        return (visible & attention_mask[:, None, None, :].bool()) | (slot == query)


def kept_shapes(model: Any) -> list[tuple[int, ...]]:
    """Returns the shapes [2, heads, 5, size] of keys and values that each layer keeps of 2 texts of 5 tokens.

    model: a model with fake parameters, which is run in the mode of these parameters.
    """
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    with torch.no_grad():
        model(
            input_ids=torch.zeros(_BATCH, _PAST, dtype=torch.int64),
            use_cache=True,
            **{cache_argument(model): cache},
        )
    return [tuple(t.shape) for layer in cache.layers for t in (layer.keys, layer.values)]


def decoder_interface(config: Any, dtype: torch.dtype, kept: Sequence[tuple[int, ...]] | None) -> Interface:
    """Returns inputs and outputs of a decoder with a KV cache.

    config: of the text model; kept: shapes of keys and values, None if the config tells them.
    """
    parts = [f"{i}.{part}" for i in range(config.num_hidden_layers) for part in ("key", "value")]
    batch, sequence, past = token_dimensions("batch", "sequence", "past")
    # total = past + sequence. torch.export infers this from plain ops but not from the Attention op; only AUTO accepts
    # both cases.
    mask, tokens, cache = {0: batch, 1: torch.export.Dim.AUTO}, {0: batch, 1: sequence}, {0: batch, 2: past}
    ids = torch.zeros(_BATCH, _SEQUENCE, dtype=torch.int64)
    caches = (torch.zeros(shape, dtype=dtype) for shape in kept or _configured_shapes(config))
    return Interface(
        inputs=(*TOKEN_INPUTS, *(f"{PAST}{p}" for p in parts)),
        outputs=(LOGITS, *(f"{PRESENT}{p}" for p in parts)),
        arguments=(
            ids,
            torch.ones(_BATCH, _PAST + _SEQUENCE, dtype=torch.int64),
            torch.zeros_like(ids),
            *caches,
        ),
        dynamic_shapes=(tokens, mask, tokens, tuple(cache for _ in parts)),
        dimensions=((0, 0, "batch"), (0, 1, "sequence"), (1, 1, "total"), (3, 2, "past")),
    )


def _configured_shapes(config: Any) -> list[tuple[int, ...]]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # A model ignores a setting that its config class does not declare.
    grouped = config.num_key_value_heads if hasattr(type(config), "num_key_value_heads") else None
    kv_heads = grouped or config.num_attention_heads
    return [(_BATCH, kv_heads, _PAST, head_dim)] * (2 * config.num_hidden_layers)


def _cache_from(past: tuple[Tensor, ...]) -> Any:
    """Fill a cache without `update`, which concatenates a 1-D empty tensor to an empty layer. ONNX forbids that."""
    from transformers.cache_utils import Cache, DynamicLayer

    layers = []
    for key, value in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values = key, value
        layer.dtype, layer.device, layer.is_initialized = key.dtype, key.device, True
        layers.append(layer)
    return Cache(layers=layers)


class ExportEncoder(nn.Module):
    """Wraps an encoder of transformers for tracing.

    Inputs (int64, [batch, sequence]): `input_ids`, `attention_mask`, and `token_type_ids` if the model has more than one
    token type. Outputs: `last_hidden_state` [batch, sequence, hidden], and `pooler_output` [batch, hidden] if the model
    has a pooler.
    """

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run the encoder. Every token reads all tokens whose `attention_mask` is 1."""
        settings: dict[str, Tensor] = {}
        if _sentence_kinds(self.traced.config):
            settings["token_type_ids"] = (
                token_type_ids if token_type_ids is not None else torch.zeros_like(input_ids)
            )
        # RoBERTa's and MPNet's positions count the tokens without padding instead of the places in the sequence.
        if not hasattr(self.traced.embeddings, "create_position_ids_from_inputs_embeds"):
            # Without this the model reads them from a buffer, which would become a constant of the graph.
            settings["position_ids"] = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        batch, sequence = input_ids.shape
        # One row for each query: ONNX Runtime's Attention does not broadcast a mask over the queries.
        mask = attention_mask[:, None, None, :].bool().expand(batch, 1, sequence, sequence)
        traced: Any = self.traced
        if traced.config._attn_implementation == "eager":
            mask = additive(mask, traced.dtype)
        output = traced(input_ids=input_ids, attention_mask=mask, **settings)
        pooled = getattr(output, "pooler_output", None)
        return (output.last_hidden_state,) if pooled is None else (output.last_hidden_state, pooled)


def encoder_interface(config: Any, *, pooler: bool) -> Interface:
    """Returns inputs and outputs of an encoder. pooler: it has an output `pooler_output`."""
    names = [INPUT_IDS, ATTENTION_MASK]
    if _sentence_kinds(config) > 1:
        names.append(TOKEN_TYPE_IDS)
    batch, sequence = token_dimensions("batch", "sequence")
    # The sizes differ and are above 1: torch.export specializes 0 and 1, and merges dimensions of equal size.
    tokens = torch.ones(2, 3, dtype=torch.int64)
    return Interface(
        inputs=tuple(names),
        outputs=(HIDDEN, "pooler_output") if pooler else (HIDDEN,),
        arguments=tuple(tokens.clone() for _ in names),
        dynamic_shapes=tuple({0: batch, 1: sequence} for _ in names),
        dimensions=((0, 0, "batch"), (0, 1, "sequence")),
    )


def _sentence_kinds(config: Any) -> int:
    return int(getattr(config, "type_vocab_size", 0))
