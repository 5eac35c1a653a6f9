"""Which models the exporter covers, and why another one is refused."""

import json
from pathlib import Path
from typing import Any

from masklearn.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError

__all__ = ["COVERED_ARCHITECTURES", "check_exportable", "load_config"]

# `model_type` of config.json. Masks can be learned for more (`masklearn.architectures`).
COVERED_ARCHITECTURES: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3")

_BLOCKS = "model.layers."

# These recompute their frequencies from the length at run time: a graph can't hold that.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def load_config(model_dir: Path) -> Any:
    """Read `model_dir/config.json` as a transformers config.

    Raises:
        PatchCompileError: no readable config, or a model the exporter doesn't cover.
    """
    from transformers import AutoConfig

    model_type = _read_model_type(model_dir)
    if model_type not in COVERED_ARCHITECTURES:
        raise PatchCompileError(
            f"The architecture {model_type!r} of {model_dir} is not covered",
            f"the export covers {', '.join(COVERED_ARCHITECTURES)}",
            "use one of these, or a checkpoint saved in one of these layouts; "
            "masks alone are learned for more, by `patch-compile learn`",
        )
    config = AutoConfig.from_pretrained(str(model_dir))
    _refuse_unsupported(config, model_dir)
    return config


def check_exportable(checkpoint: Checkpoint) -> None:
    """PatchCompileError when `export_model` would refuse the model, or its graph would not find the weights."""
    load_config(checkpoint.path)
    if not any(name.startswith(_BLOCKS) for name in checkpoint.names()):
        raise PatchCompileError(
            f"The tensors of {checkpoint.path} are not named as a causal language model's",
            f"none begins with {_BLOCKS!r}, as in a checkpoint of the base model alone",
            "load it with AutoModelForCausalLM and call save_pretrained",
        )


def _read_model_type(model_dir: Path) -> str:
    path = model_dir / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PatchCompileError(
            f"Can't read {path}", str(error.strerror), "give a directory saved by save_pretrained"
        ) from error
    except json.JSONDecodeError as error:
        raise PatchCompileError(f"{path} is not JSON", str(error), "download the model again") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise PatchCompileError(
            f"{path} names no model_type",
            "transformers writes one in every config",
            "download the model again",
        )
    return str(raw["model_type"])


def _refuse_unsupported(config: Any, model_dir: Path) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise PatchCompileError(
            f"{model_dir} is quantized",
            "masks are learned on, and packed from, fp16, bf16 or fp32 weights",
            "use the unquantized checkpoint",
        )
    rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type in _LENGTH_DEPENDENT_ROPE:
        raise PatchCompileError(
            f"Rotary embeddings of type {rope_type!r} are not covered",
            "their frequencies change with the length of the sequence, which a graph can't express",
            "set rope_scaling to null or to linear, llama3 or yarn in config.json",
        )
