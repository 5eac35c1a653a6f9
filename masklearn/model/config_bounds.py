"""Checks a config.json that anybody may have written: types of the settings that are read here, and sizes of a model.

A config of a few bytes can describe a model of a million layers. Building it takes minutes even without weights, so sizes
are compared with the largest that published models have, with room above them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from masklearn.base.errors import reading

_MOST_EXPERTS = 2**15  # in all layers; Kimi K2 has 23,000
MOST_LAYERS = 1024  # Llama 3.1 405B has 126
# Largest value of each setting. DeepSeek V3 has 256 experts a layer.
_MOST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), MOST_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads"), 2**16),
    **dict.fromkeys(("hidden_size", "n_embd", "dim", "head_dim", "word_embed_proj_dim"), 2**24),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "hidden_dim", "n_inner", "vocab_size"), 2**24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 2**24),
    "image_size": 2**13,
    "patch_size": 2**13,
}
# Settings that may be 0: a model without experts, for example.
_MOST_OR_NONE = {
    **dict.fromkeys(("num_experts", "num_local_experts", "num_experts_per_tok"), 2**12),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 2**24),
    "type_vocab_size": 2**24,
    "sliding_window": 2**31,
    "num_labels": 2**20,
}
_Token = int | list[int] | None


class _Typed(BaseModel):
    """Settings that are read here. None means absent or null."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model_type: str | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    tie_word_embeddings: bool | None = None
    layer_types: list[str] | None = None
    bos_token_id: _Token = None
    eos_token_id: _Token = None
    pad_token_id: int | None = None
    quantization_config: dict[str, Any] | None = None
    compression_config: dict[str, Any] | None = None
    sparsity_config: dict[str, Any] | None = None


def _sizes(most: Mapping[str, int], least: int) -> dict[str, Any]:
    return {name: (Annotated[int, Field(ge=least, le=high)] | None, None) for name, high in most.items()}


_Sized = create_model("_Sized", __base__=_Typed, **_sizes(_MOST, 1), **_sizes(_MOST_OR_NONE, 0))


class _Config(_Sized):  # type: ignore[misc, valid-type]  # mypy knows no class that create_model returns
    """A whole config. Models of images and text have a config of each part in it."""

    text_config: _Sized | None = None  # type: ignore[valid-type]
    vision_config: _Sized | None = None  # type: ignore[valid-type]


def check_config(file: Path, content: Mapping[str, Any]) -> None:
    """Raises MaskLearnError for a setting of the wrong type, and for a model that is larger than any published model.

    file: the config.json, for errors; content: its object.
    """
    fix = "Fetch the model again from a source that you trust."
    with reading(file, fix, what="holds settings that no model has"):
        _Config.model_validate(dict(content))
        for part in (content, content.get("text_config") or {}):
            layers = part.get("num_hidden_layers") or 1
            experts = max(part.get("num_experts") or 0, part.get("num_local_experts") or 0)
            if layers * experts > _MOST_EXPERTS:
                raise ValueError(
                    f"num_experts: {experts} in each of {layers} layers, and {_MOST_EXPERTS} in all are read"
                )
