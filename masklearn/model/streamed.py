"""Runs a checkpoint's whole model with the weights of one block in memory at a time, for inputs that come one by one."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import meta_model
from masklearn.model.naming import check_tensor, stored_name, tied_names

Read = Callable[[str, torch.Size], Tensor]
"""Returns a tensor of a checkpoint by its name there and its shape in the model."""


def streamed_model(checkpoint: Checkpoint, read: Read, dtype: torch.dtype = torch.float32) -> Any:
    """Returns the model in eval mode. Each block, and each module outside the blocks, reads its weights when it runs: every
    run reads the whole checkpoint.

    Every linear is an `nn.Linear`, see `meta_model`. read: called for each tensor in each run; dtype: to compute in.
    Raises MaskLearnError as `meta_model` does, and if the checkpoint lacks a tensor or has it in another shape.
    """
    model: Any = meta_model(checkpoint)
    names = tied_names(model)
    # Freed weights, which the next weights of their shape take: fresh memory costs more time than copying.
    free: _Free = defaultdict(list)
    for prefix, module in _units(model, checkpoint.architecture.blocks):
        stored = {
            name: stored_name(checkpoint, names[f"{prefix}.{name}"])
            for name, _ in module.named_parameters(remove_duplicate=False)
        }
        empty = dict(module.named_parameters(remove_duplicate=False))
        for name, parameter in empty.items():
            check_tensor(checkpoint, stored[name], parameter.shape)
        module.register_forward_pre_hook(partial(_load, stored, read, free, dtype))
        module.register_forward_hook(partial(_release, empty, free), always_call=True)
    return model


def _units(model: nn.Module, blocks: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks, whose modules may read weights of each other, and the other modules that have weights."""
    within = f"{blocks}."
    for name, module in model.named_modules():
        if name.startswith(within):
            if "." not in name.removeprefix(within):
                yield name, module
        elif dict(module.named_parameters(recurse=False)):
            yield name, module


_Free = defaultdict[torch.Size, list[nn.Parameter]]


def _load(
    stored: dict[str, str], read: Read, free: _Free, dtype: torch.dtype, module: nn.Module, _inputs: Any
) -> None:
    for name, empty in list(module.named_parameters(remove_duplicate=False)):
        if free[empty.shape]:
            parameter = free[empty.shape].pop()
        else:
            parameter = nn.Parameter(torch.empty(empty.shape, dtype=dtype), requires_grad=False)
        parameter.data.copy_(read(stored[name], empty.shape))
        _put(module, name, parameter)


def _release(
    empty: dict[str, nn.Parameter], free: _Free, module: nn.Module, _inputs: Any, _output: Any
) -> None:
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if parameter is not empty[name]:
            free[parameter.shape].append(parameter)
            _put(module, name, empty[name])


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, parameter)
