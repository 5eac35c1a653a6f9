"""Loads a checkpoint's whole model for training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.model.architectures import architecture_of_config
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_tensor
from masklearn.model.models import meta_model
from masklearn.model.naming import stored_name, tied_names
from masklearn.model.precision import keep_attention_in_fp32

__all__ = ["last_hidden", "training_model"]


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
            loaded[id(parameter)] = _read(checkpoint, names[name], parameter.shape, dtype)
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


def _read(checkpoint: Checkpoint, names: list[str], shape: torch.Size, dtype: torch.dtype) -> nn.Parameter:
    """Read a parameter; `names` are all of its names, of which the checkpoint has one or more."""
    return nn.Parameter(read_tensor(checkpoint, stored_name(checkpoint, names), shape).to(dtype))


def _without_dropout(model: nn.Module) -> None:
    """Turn dropout off: repair and mask learning take too few steps to overfit, and a teacher must be deterministic."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
