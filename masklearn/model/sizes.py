"""Sizes of a text model, from its transformers config."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Sizes", "sizes_of"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a text model. intermediate: hidden channels of the feed-forward part of a block."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def q(self) -> int:
        """Output features of q_proj."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Output features of k_proj and of v_proj."""
        return self.kv_heads * self.head_dim


def sizes_of(config: Any) -> Sizes:
    """Returns the sizes of a text config of transformers."""
    heads, hidden = config.num_attention_heads, config.hidden_size
    # OPT says ffn_dim, DistilBERT hidden_dim; GPT-2 leaves n_inner empty for four times its width.
    wide = _first(config, "intermediate_size", "ffn_dim", "hidden_dim", "n_inner") or 4 * hidden
    return Sizes(
        layers=config.num_hidden_layers,
        hidden=hidden,
        intermediate=wide,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads") or heads,
        head_dim=_first(config, "head_dim") or hidden // heads,
        vocabulary=config.vocab_size,
    )


def _first(config: Any, *names: str) -> int | None:
    """Returns the first of these settings that the config has."""
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)
