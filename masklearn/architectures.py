"""The architectures that are covered, and where their parts lie in module and checkpoint names."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masklearn.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of", "cache_argument", "meta_model"]


@dataclass(frozen=True)
class Architecture:
    """Module names of a causal language model whose blocks run one after the other."""

    base: str  # the model below the head
    blocks: str  # the ModuleList of blocks
    embedding: str
    norm: str
    rotary: str
    head: str


_LLAMA = Architecture(
    base="model",
    blocks="model.layers",
    embedding="model.embed_tokens",
    norm="model.norm",
    rotary="model.rotary_emb",
    head="lm_head",
)

# By `model_type` of config.json; each one is tested with a tiny random model.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The parts of a checkpoint's model; PatchCompileError when it is not covered or already quantised."""
    model_type = checkpoint.config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise PatchCompileError(
            f"The architecture {model_type!r} of {checkpoint.path} is not covered",
            f"Covered are the model types {', '.join(ARCHITECTURES)}.",
            "Use a model of one of these types.",
        )
    if "quantization_config" in checkpoint.config:
        raise PatchCompileError(
            f"{checkpoint.path} is quantised",
            "Masks are learned on fp16, bf16 or fp32 weights.",
            "Use the checkpoint it was quantised from.",
        )
    return ARCHITECTURES[model_type]


def meta_model(checkpoint: Checkpoint) -> "PreTrainedModel":
    """The model's modules on the meta device, in fp32 and eval mode: shapes and names, no memory.

    PatchCompileError when transformers cannot build it from config.json.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture_of(checkpoint)
    try:
        config: Any = AutoConfig.from_pretrained(checkpoint.path)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise PatchCompileError(
            f"transformers cannot build the model of {checkpoint.path / 'config.json'}",
            f"{type(error).__name__}: {error}",
            "Fetch the checkpoint again, or update transformers.",
        ) from error
    return model.eval()


def cache_argument(model: Any) -> str:
    """Name of the forward argument that takes the KV cache: transformers 5.2x renamed `past_key_values` to `cache`."""
    import inspect

    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
