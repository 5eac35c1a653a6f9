"""Loads a checkpoint's whole model for training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.architectures import architecture_of_config
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_tensor
from masklearn.model.models import meta_model
from masklearn.model.modules import keep_attention_in_fp32
from masklearn.model.naming import stored_name, tied_names
from masklearn.training.head import CHUNK


def training_model(
    checkpoint: Checkpoint,
    given: Mapping[str, nn.Parameter] | None = None,
    linear_dtype: torch.dtype = torch.float32,
) -> Any:
    """Returns a checkpoint's model on the CPU, in fp32 and without dropout. It holds the checkpoint's new weights.

    Every linear is an `nn.Linear` (see `as_linears`), and tied parameters are one object.

    given: parameters by module name to use instead of reading them; linear_dtype: type of the linears' weights that are
    read.

    Raises MaskLearnError if a weight is missing, has a wrong shape, or holds NaN or infinity.
    """
    model: Any = meta_model(checkpoint)
    names = tied_names(model)
    loaded: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if given is not None and name in given:
            loaded[id(parameter)] = given[name]
        elif id(parameter) not in loaded:
            linear = isinstance(module, nn.Linear) and attribute == "weight"
            dtype = linear_dtype if linear else torch.float32
            # The checkpoint has at least one of a parameter's names.
            weight = read_tensor(checkpoint, stored_name(checkpoint, names[name]), parameter.shape)
            loaded[id(parameter)] = nn.Parameter(weight.to(dtype))
        setattr(module, attribute, loaded[id(parameter)])
    _without_dropout(model)
    keep_attention_in_fp32(model)
    return model


def last_hidden(model: Any, ids: Tensor) -> Tensor:
    """Returns the last hidden states `[batch, length, hidden]`, a decoder's inputs of the output head.

    ids: token ids `[batch, length]`.
    """
    row = architecture_of_config(model.config)
    base = model.get_submodule(row.base)
    hidden: Tensor = base(input_ids=ids, **({} if row.encoder else {"use_cache": False})).last_hidden_state
    return hidden


def _without_dropout(model: nn.Module) -> None:
    """Turn dropout off: repair and mask learning take too few steps to overfit, and a teacher must be deterministic."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


# Measured on SmolLM2-135M. _KEPT: bytes that autograd keeps per token and feature (N + K of every linear), by "bf16
# autocast is on". _MARGIN covers fragmentation, _PROCESS the process itself and its kernels.
_KEPT = {False: 4.4, True: 3.4}
_MARGIN, _PROCESS = 1.2, 0.3 * 2**30
_CHUNK_LOGITS = 4 * 4 * CHUNK  # bytes per word of the vocabulary: four fp32 tensors for a chunk of tokens


@dataclass(frozen=True)
class MemorySettings:
    """Settings that save memory. teacher_bf16: keep the dense teacher's linears in bf16."""

    optimizer: Literal["adamw", "adafactor"]
    teacher_bf16: bool
    gradient_checkpointing: bool

    def __str__(self) -> str:
        return ", ".join(
            [
                "AdamW" if self.optimizer == "adamw" else "Adafactor",
                f"teacher in {'bf16' if self.teacher_bf16 else 'fp32'}",
                *(["gradient checkpointing"] if self.gradient_checkpointing else []),
            ]
        )


@dataclass(frozen=True)
class MemoryNeed:
    """Sizes that determine the memory of distillation.

    weights: number of the model's weights; shared: number of weights that student and teacher share (embeddings);
    trained: number of weights that train; features: N + K summed over the linears that a token passes; hidden: size of a
    hidden state; blocks: number of blocks; vocabulary: its size, 0 for an encoder; tokens: tokens per batch.
    """

    weights: int
    shared: int
    trained: int
    features: int
    hidden: int
    blocks: int
    vocabulary: int
    tokens: int

    def bytes_for(self, settings: MemorySettings, *, bf16: bool) -> int:
        """Returns the peak bytes of training with these settings; bf16: linears compute in bf16."""
        state = 12 if settings.optimizer == "adamw" else 4  # gradient, and Adam's two moments
        teacher = (2 if settings.teacher_bf16 else 4) * (self.weights - self.shared)
        model = 4 * self.weights + (state + 1) * self.trained + teacher  # 1: the mask
        head = (_CHUNK_LOGITS + (4 * self.hidden if bf16 else 0)) * self.vocabulary
        kept = self.kept(bf16=bf16)
        if settings.gradient_checkpointing:
            kept = kept / self.blocks + 4 * self.hidden * self.blocks * self.tokens
        return round(_MARGIN * (model + kept + head) + _PROCESS)

    def kept(self, *, bf16: bool) -> float:
        """Returns the bytes that autograd keeps for the backward pass without gradient checkpointing: activations, and
        weights in autocast's type."""
        return _KEPT[bf16] * self.features * self.tokens + (2 * self.trained if bf16 else 0)


def memory_need(checkpoint: Checkpoint, masks: Mapping[str, LinearMask], tokens: int) -> MemoryNeed:
    """Returns the sizes for the distillation of a masked checkpoint. Reads no weights; tokens: per step."""
    model: Any = meta_model(checkpoint)
    row = checkpoint.architecture
    weights = sum(parameter.numel() for parameter in model.parameters())
    masked = sum(mask.weights for mask in masks.values())
    head = None if row.encoder else model.get_output_embeddings()
    embedding = model.get_input_embeddings().weight
    return MemoryNeed(
        weights=weights,
        shared=weights - masked,
        trained=masked,
        features=_features(model),
        hidden=embedding.shape[1],
        blocks=len(model.get_submodule(row.blocks)),
        vocabulary=0 if head is None else head.out_features,
        tokens=tokens,
    )


def first_that_fits(
    need: MemoryNeed, first: MemorySettings, available: int, *, bf16: bool, note: Callable[[str], object]
) -> MemorySettings | None:
    """Returns the first of three settings that fits into `available` bytes, or None if none fits.

    They are `first`; then a bf16 teacher and gradient checkpointing too; then Adafactor too. note: called with a line
    about each setting that does not fit.
    """
    spared = replace(first, teacher_bf16=True, gradient_checkpointing=True)
    steps = dict.fromkeys((first, spared, replace(spared, optimizer="adafactor")))
    for settings in steps:
        needed = need.bytes_for(settings, bf16=bf16)
        if needed <= available:
            return settings
        note(f"repair with {settings} needs {_gib(needed)} of memory, {_gib(available)} are available")
    return None


def _features(model: Any) -> int:
    """Returns N + K summed over the linears that a token passes. In a mixture of experts it passes only its own experts."""
    chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    features = 0.0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module is model.get_output_embeddings():
            continue
        owner = (
            model.get_submodule(name.rpartition(".experts.")[0] + ".experts") if ".experts." in name else None
        )
        share = 1.0 if owner is None or chosen is None else chosen / len(owner)
        features += share * (module.in_features + module.out_features)
    return round(features)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
