"""Makes a config of a few layers and narrow linears from that of any decoder: its model runs in milliseconds."""

import copy
from typing import Any

__all__ = ["per_layer", "shortened", "shrunk"]

_VOCABULARY = 64
_WIDE = 96  # hidden channels of the feed-forward part
_HEADS = 4
_LAYERS = 4
_WIDTHS = (
    "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "intermediate_size_mlp", "moe_intermediate_size",
    "shared_expert_intermediate_size", "shared_intermediate_size",
)  # fmt: skip
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def shrunk(config: Any) -> Any:
    """Returns a copy with the first layers, few heads, and a small vocabulary.

    The layers are four, or more if it takes more to have one of each kind that the config lists. The size of a head stays,
    and as many query heads share a key.
    """
    small = shortened(config, min(config.num_hidden_layers, max(_LAYERS, _first_of_each_kind(config))))
    small.vocab_size = min(config.vocab_size, _VOCABULARY)
    for name in _TOKENS:
        if getattr(small, name, None) is not None:
            setattr(small, name, 0)
    for name in _WIDTHS:
        if _is_size(getattr(config, name, None)):
            setattr(small, name, min(getattr(config, name), _WIDE))
    _take_heads_away(small)
    return small


def shortened(config: Any, layers: int) -> Any:
    """Returns a copy with the first `layers` layers."""
    shorter, lists = copy.deepcopy(config), per_layer(config)
    for name, values in lists.items():
        setattr(shorter, name, values[:layers])
    shorter.num_hidden_layers = layers
    return shorter


def per_layer(config: Any) -> dict[str, list[Any]]:
    """Returns the settings that list a value for each layer, such as `layer_types`."""
    return {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list)
        and len(value) == config.num_hidden_layers
        and not name.startswith("_")
        and name != "architectures"
        and not name.endswith("_token_id")
    }


def _first_of_each_kind(config: Any) -> int:
    """Returns the number of first layers that hold every value that the lists of the config have."""
    needed = 1
    for values in per_layer(config).values():
        needed = max(needed, *(values.index(value) + 1 for value in values))
    return needed


def _take_heads_away(small: Any) -> None:
    heads: Any = getattr(small, "num_attention_heads", None)
    if not _is_size(heads):
        return
    shared: Any = next((n for name in _KV_HEADS if _is_size(n := getattr(small, name, None))), heads)
    if heads % shared or small.hidden_size % heads:
        return
    group, width = heads // shared, small.hidden_size // heads
    fewer = max(1, _HEADS // group)
    if fewer >= shared:
        return
    small.num_attention_heads, small.hidden_size = fewer * group, fewer * group * width
    for name in _KV_HEADS:
        if _is_size(getattr(small, name, None)):
            setattr(small, name, fewer)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
