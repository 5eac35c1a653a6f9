"""Reads the settings of a text model from its config.json, without transformers where config.json states them.

Importing transformers takes seconds, and it completes a config by its own defaults. The table of types below tells which
settings must be stated so that none of these defaults is needed; tests compare every type with transformers.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from masklearn.model.folder import read_config
from masklearn.model.pretrained import load_config

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings")
_ALIASES = {
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "n_embd": "hidden_size",
    "dim": "hidden_size",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}


class _Type(NamedTuple):
    """A model type. needed: sizes besides `_SIZES` that must be stated; optional: sizes for which transformers takes what
    `sizes_of` takes; tied: value of `tie_word_embeddings` where it is absent."""

    needed: tuple[str, ...] = ("intermediate_size",)
    optional: tuple[str, ...] = ()
    tied: bool = False


_HEADS = ("num_key_value_heads", "head_dim")
_GEMMA = _Type(("intermediate_size", *_HEADS), tied=True)
_BERT = _Type(tied=True)
_TYPES = {
    "llama": _Type(optional=_HEADS),
    "mistral": _Type(("intermediate_size", "num_key_value_heads"), ("head_dim",)),
    "qwen2": _Type(("intermediate_size", "num_key_value_heads"), ("head_dim",)),
    "qwen3": _Type(("intermediate_size", *_HEADS)),
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _Type(optional=_HEADS),
    "gpt2": _Type((), ("n_inner",), tied=True),
    "opt": _Type(("ffn_dim", "word_embed_proj_dim"), tied=True),
    "gpt_neox": _Type(),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _Type(("hidden_dim",), tied=True),
    "mpnet": _BERT,
}
_OF_SOME = {name for one in _TYPES.values() for name in (*one.needed, *one.optional)}
_ROPE_TYPES = {"default", "linear", "llama3"}  # transformers completes or renames others


def text_settings(model: Path) -> Any:
    """Returns the settings of the text model of a folder with config.json, or of that file, as attributes.

    They are the content of config.json if it states all sizes, else the text config of transformers. The caller has checked
    config.json (`check_config`). Raises MaskLearnError as `load_config` does.
    """
    folder = model.parent if model.is_file() else model
    content = read_config(folder)
    row = _TYPES.get(str(content.get("model_type")))
    stated = {_ALIASES.get(name, name): value for name, value in content.items() if value is not None}
    if row is None or not stated.keys() >= {*_SIZES, *row.needed}:
        return load_config(folder).get_text_config()
    ropes = stated.get("rope_scaling", stated.get("rope_parameters", {}))
    if not isinstance(ropes, dict) or not _rope_types(ropes) <= _ROPE_TYPES:
        return load_config(folder).get_text_config()
    foreign = _OF_SOME - {*row.needed, *row.optional}  # the type ignores them
    own = {name: value for name, value in stated.items() if name not in foreign}
    return SimpleNamespace(**({"tie_word_embeddings": row.tied} | own | {"rope_parameters": ropes}))


def _rope_types(ropes: dict[str, Any]) -> set[str]:
    """Returns the types of rotary embeddings: Gemma 3 has a type for each kind of layer. Old files write `type`."""
    kinds = [kind for kind in ropes.values() if isinstance(kind, dict)] or [ropes]
    return {str(kind.get("rope_type", kind.get("type", "default"))) for kind in kinds}
