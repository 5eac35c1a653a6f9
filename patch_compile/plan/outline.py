"""What a whole model computes beside the covered linears, from config.json and the headers of the shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from masklearn.checkpoint import Checkpoint
from masklearn.coverage import Coverage
from masklearn.kinds import depth_of
from patch_compile.plan.roofline.end_to_end import Model

__all__ = ["Outline", "outline_of"]

Shape = tuple[int, int]


@dataclass(frozen=True)
class Outline:
    """model: its sizes; others: linears of the blocks that are not covered."""

    model: Model
    others: tuple[Shape, ...] = ()


def outline_of(checkpoint: Checkpoint, coverage: Coverage) -> Outline:
    """The outline of a checkpoint; no weight is read."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.path).get_text_config()
    others = (name for name in coverage.skipped if depth_of(name) is not None)
    shapes = [checkpoint.shape(f"{name}.weight") for name in others if f"{name}.weight" in checkpoint]
    head_covered = any(depth_of(name) is None for name in coverage.linears)
    return Outline(
        _model(checkpoint.path.resolve().name, config, head_covered),
        tuple((shape[0], shape[1]) for shape in shapes if len(shape) == 2),
    )


def _model(name: str, config: Any, head_covered: bool) -> Model:
    heads, hidden = config.num_attention_heads, config.hidden_size
    return Model(
        name,
        layers=config.num_hidden_layers,
        hidden=hidden,
        # OPT says ffn_dim, DistilBERT hidden_dim; GPT-2 leaves n_inner empty for four times its width.
        intermediate=_first(config, "intermediate_size", "ffn_dim", "hidden_dim", "n_inner") or 4 * hidden,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads") or heads,
        head_dim=_first(config, "head_dim") or hidden // heads,
        vocabulary=0 if head_covered else config.vocab_size,
    )


def _first(config: Any, *names: str) -> int | None:
    """The first of these settings that the config has."""
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)
