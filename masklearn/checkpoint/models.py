"""A checkpoint's model as transformers builds it: its modules without weights, or the whole of it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.checkpoint.architectures import Architecture, architecture_of
from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.naming import checkpoint_name, linear_name
from masklearn.checkpoint.pretrained import build_model, load_config, load_pretrained
from masklearn.masks.maskset import MaskSet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["auto_class", "cache_argument", "load_model", "meta_model"]


def auto_class(architecture: Architecture) -> Any:
    """The transformers class that loads the model: with its language-model head, encoders without any head."""
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModel if architecture.encoder else AutoModelForCausalLM


def meta_model(checkpoint: Checkpoint) -> "PreTrainedModel":
    """The model's modules in fp32 and eval mode with parameters on the meta device: shapes and names, no memory.

    Every linear is an `nn.Linear` (see `as_linears`); a pooler that the checkpoint lacks is None. Buffers are real:
    rotary frequencies and embedding scales come from the config, no checkpoint holds them. PatchCompileError when
    transformers cannot build it from config.json.
    """
    import torch
    from accelerate import init_empty_weights

    from masklearn.checkpoint.linears import as_linears

    architecture = architecture_of(checkpoint)
    config = load_config(checkpoint.path)
    with init_empty_weights(include_buffers=False):
        model = build_model(auto_class(architecture), config, dtype=torch.float32)
    model.tie_weights()  # moving them to the meta device one by one has parted tied parameters
    as_linears(model)
    if architecture.encoder:
        _drop_absent(model, architecture, checkpoint)
    return model.eval()


def load_model(
    model_dir: str | Path, masks: MaskSet | None = None, dtype: "torch.dtype | None" = None
) -> Any:
    """A local model in eval mode, with pruned weights set to zero when `masks` are given.

    With its language-model head, or without any where it is an encoder. dtype: None for fp32. PatchCompileError when
    the architecture is not covered, or the masks are another model's.
    """
    import torch

    from masklearn.checkpoint.linears import linear_weights

    checkpoint = Checkpoint.open(model_dir)
    model_class = auto_class(architecture_of(checkpoint))
    with _without_bars():  # progress is the caller's
        model = load_pretrained(model_class, model_dir, dtype or torch.float32).eval()
    if masks is not None:
        weights = {linear_name(checkpoint, name): w for name, w in linear_weights(model).items()}
        masks.check_covers({name: (w.shape[0], w.shape[1]) for name, w in weights.items() if name in masks})
        for name, mask in masks.items():
            weights[name].masked_fill_(torch.from_numpy(~mask.keep()), 0.0)
    return model


def cache_argument(model: Any) -> str:
    """Name of the forward argument that takes the KV cache: transformers 5.2x renamed `past_key_values` to `cache`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _drop_absent(model: Any, architecture: Architecture, checkpoint: Checkpoint) -> None:
    """Encoders trained below another head have no pooler in the checkpoint, and transformers makes up a random one."""
    for name in architecture.tail:
        tensors = (f"{name}.{tensor}" for tensor, _ in model.get_submodule(name).named_parameters())
        if not any(checkpoint_name(checkpoint, tensor) in checkpoint for tensor in tensors):
            setattr(model, name, None)


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
