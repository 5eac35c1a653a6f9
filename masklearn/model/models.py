"""Builds a checkpoint's model with transformers, without weights or with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import without_bars
from masklearn.model.architectures import Architecture
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import checkpoint_name
from masklearn.model.pretrained import build_model, load_config, load_pretrained, load_with

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def auto_class(architecture: Architecture) -> Any:
    """Returns the transformers class that loads the model: with its language-model head, or no head for an encoder."""
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModel if architecture.encoder else AutoModelForCausalLM


def meta_model(checkpoint: Checkpoint, *, buffers: bool = True) -> "PreTrainedModel":
    """Returns the model in fp32 and eval mode, with parameters on the meta device, which take no memory.

    Every linear is an `nn.Linear` (see `as_linears`), and rounds its inputs if the checkpoint says so. A pooler that a
    checkpoint with weights lacks is None. Buffers are on the CPU, because rotary frequencies and embedding scales come from
    the config and are in no checkpoint.

    buffers: False for a model of which only names and shapes are read. Its buffers are on the meta device too, and building
    it takes no memory for weights. Else transformers allocates each weight for a moment: 30 GB for 256 fused experts.

    Raises MaskLearnError if transformers can't build the model from config.json.
    """
    import torch
    from accelerate import init_empty_weights

    from masklearn.model.modules import as_linears

    architecture = checkpoint.architecture
    config = load_config(checkpoint.path)
    with init_empty_weights(include_buffers=not buffers):
        model = build_model(auto_class(architecture), config, dtype=torch.float32)
    model.tie_weights()  # `init_empty_weights` moves parameters singly, which unties tied parameters
    as_linears(model)
    if architecture.encoder and checkpoint.names():
        _drop_absent(model, architecture, checkpoint)
    _round_inputs(model, checkpoint)
    return model.eval()


def load_model(model_dir: str | Path, dtype: "torch.dtype | None" = None) -> Any:
    """Load a local model in eval mode.

    It has its language-model head, or no head if it is an encoder. Linears round their inputs if the checkpoint says so.
    dtype: None for fp32. Raises MaskLearnError if the architecture is not covered.
    """
    import torch
    from transformers.utils import logging

    checkpoint = Checkpoint.open(model_dir)
    model_class, dtype = auto_class(checkpoint.architecture), dtype or torch.float32
    with without_bars(logging):  # the caller reports progress
        if checkpoint.quantised:  # weights as their dequantised values
            tensors = {name: checkpoint.torch(name) for name in checkpoint.names()}
            model = load_with(type(meta_model(checkpoint)), checkpoint.path, tensors, dtype)
        else:
            model = load_pretrained(model_class, checkpoint.path, dtype)
    model.eval()
    _round_inputs(model, checkpoint)
    return model


def _round_inputs(model: Any, checkpoint: Checkpoint) -> None:
    """Let the linears that the checkpoint names round their inputs. Raises MaskLearnError if the model lacks one."""
    if not checkpoint.rounded_inputs:
        return
    from masklearn.model.linears import linear_modules
    from masklearn.model.rounded_inputs import round_by_scales, round_inputs_of

    linears = linear_modules(model, checkpoint)
    for name in checkpoint.rounded_inputs:
        if name not in linears:
            raise MaskLearnError(
                f"{checkpoint.path} has no linear {name}",
                "Its config.json says that the inputs of this linear have 8 bits.",
                "Use the config.json that belongs to the weights.",
            )
    static = {name: scales for name, scales in checkpoint.rounded_inputs.items() if scales is not None}
    round_inputs_of({name: linears[name] for name in checkpoint.rounded_inputs if name not in static})
    round_by_scales(linears, static)


def _drop_absent(model: Any, architecture: Architecture, checkpoint: Checkpoint) -> None:
    """Remove a pooler that the checkpoint lacks: transformers would give it random weights.

    Checkpoints of encoders that were trained with another head have no pooler.
    """
    for name in architecture.tail:
        tensors = (f"{name}.{tensor}" for tensor, _ in model.get_submodule(name).named_parameters())
        if not any(checkpoint_name(checkpoint, tensor) in checkpoint for tensor in tensors):
            setattr(model, name, None)
