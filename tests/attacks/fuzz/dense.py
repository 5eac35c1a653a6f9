"""The tiny dense model that published masks are imported into, and from whose files the corpus of models is made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from masklearn.base.shard import write_shard

__all__ = ["CONFIG", "COVERED", "TENSORS", "write_dense"]

_H, _I, _V = 16, 32, 24
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": _H, "intermediate_size": _I,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": _V,
    "max_position_embeddings": 64, "tie_word_embeddings": True, "dtype": "float32", "rms_norm_eps": 1e-6,
}  # fmt: skip
_BLOCK = "model.layers.0"
COVERED = {f"{_BLOCK}.mlp.up_proj": (_I, _H), f"{_BLOCK}.mlp.down_proj": (_H, _I)}
_ATTENTION = {f"{_BLOCK}.self_attn.{name}_proj.weight": (_H, _H) for name in "qkvo"}
_NORMS = dict.fromkeys(
    ("model.norm.weight", *(f"{_BLOCK}.{n}_layernorm.weight" for n in ("input", "post_attention"))), (_H,)
)
_MLP = {f"{name}.weight": shape for name, shape in COVERED.items()}
TENSORS: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (_V, _H), **_NORMS, **_ATTENTION, **_MLP, f"{_BLOCK}.mlp.gate_proj.weight": (_I, _H)
}  # fmt: skip


def write_dense(folder: Path) -> Path:
    """Write the model's folder; no weight is zero."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rng = np.random.default_rng(0)
    write_shard(
        folder / "model.safetensors",
        {name: ("F32", shape) for name, shape in TENSORS.items()},
        lambda name: rng.random(TENSORS[name], np.float32) + np.float32(0.1),
        {"format": "pt"},
    )
    return folder
