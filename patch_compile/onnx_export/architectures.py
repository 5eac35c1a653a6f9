"""Architectures that the exporter covers, and the reasons why others are refused."""

from pathlib import Path
from typing import Any

from masklearn.base.safe_read import read_json
from masklearn.model import pretrained
from masklearn.model.architectures import (
    Architecture,
    architecture_of_config,
    check_type,
)
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_bounds import check_config
from masklearn.model.naming import checkpoint_name
from masklearn.model.text_settings import text_settings
from patch_compile.errors import PatchCompileError

FUSED_OPSET = 23
"""The first opset with Attention, RMSNormalization and RotaryEmbedding."""

# These compute their frequencies from the sequence length at run time, which a graph can't express.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

# Settings of a config that turn it into a model which the exporter does not trace, and the reason.
_OTHER_MODELS = {
    "is_decoder": "It reads from left to right, with a cache, as no encoder does.",
    "add_cross_attention": "Its layers read the output of another model.",
    "use_bidirectional_attention": "Its tokens read the tokens that follow, so it has no next token to predict.",
    # transformers 5.24: FalconModel puts ALiBi into the mask, and FalconAttention adds it to the scores again.
    "alibi": "The attention that its graph is traced from counts ALiBi twice, other than the attention of transformers.",
}


def load_config(model_dir: Path) -> Any:
    """Read `model_dir/config.json` as a transformers config.

    Raises PatchCompileError if the config is missing or unreadable, and for a model that the exporter does not cover.
    """
    raw = _read_config(model_dir)
    check_type(model_dir, raw)
    check_config(model_dir / "config.json", raw)
    config = pretrained.load_config(model_dir)
    architecture_of_config(config)
    _refuse_unsupported(text_config(config), model_dir)
    return config


def text_config(config: Any) -> Any:
    """Returns the config of the traced model: of the text part in a model of images and text."""
    return config.get_text_config()


def check_exportable(checkpoint: Checkpoint) -> None:
    """Raise PatchCompileError if `export_model` would refuse the model, or if the checkpoint lacks the head's weights.

    `masklearn.model.coverage` checks the weights of the blocks.
    """
    row, settings = checkpoint.architecture, text_settings(checkpoint.path)
    _refuse_unsupported(settings, checkpoint.path)
    tied = bool(settings.tie_word_embeddings)
    if not row.encoder and not tied and checkpoint_name(checkpoint, f"{row.head}.weight") not in checkpoint:
        raise PatchCompileError(
            f"{checkpoint.path} holds no output head",
            f"{row.head}.weight is in none of its files, as in a checkpoint of only the base model.",
            "Load it with AutoModelForCausalLM and call save_pretrained.",
        )


def has_pooler(checkpoint: Checkpoint, architecture: Architecture) -> bool:
    """True if the checkpoint holds the weights of an encoder's pooler. An encoder trained with another head has none."""
    names = (f"{part}.dense.weight" for part in architecture.tail)
    return architecture.encoder and any(checkpoint_name(checkpoint, name) in checkpoint for name in names)


def _read_config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    try:
        raw = read_json(path, finite=False)
    except OSError as error:
        raise PatchCompileError(
            f"{path} can't be read", str(error.strerror), "Give a directory saved by save_pretrained."
        ) from error
    except ValueError as error:
        raise PatchCompileError(f"{path} is not JSON", str(error), "Download the model again.") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise PatchCompileError(
            f"{path} names no model_type",
            "Transformers writes a model_type into every config.",
            "Download the model again.",
        )
    return raw


def _refuse_unsupported(text: Any, model_dir: Path) -> None:
    for setting, why in _OTHER_MODELS.items():
        if getattr(text, setting, False):
            raise PatchCompileError(
                f"{model_dir} is not covered with {setting} = true in its config.json",
                why,
                f"Use a model of the type {text.model_type!r} without it.",
            )
    for rope_type in _rope_types(text):
        if rope_type in _LENGTH_DEPENDENT_ROPE:
            raise PatchCompileError(
                f"Rotary embeddings of type {rope_type!r} are not covered",
                "Their frequencies change with the length of the sequence, which a graph can't express.",
                "Set rope_scaling to null or to linear, llama3 or yarn in config.json.",
            )


def _rope_types(config: Any) -> set[str]:
    """Returns the RoPE types: a config has one type for all layers, or one for each kind of layer (Gemma 3)."""
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in parameters.values() if isinstance(kind, dict)] or [parameters]
    return {str(kind.get("rope_type", "default")) for kind in kinds}  # a list in a damaged config has no hash
