"""Gives the linears of models and of checkpoints as weights [N, K], whatever their layout there."""

import torch
from torch import Tensor, nn

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.modules import as_linears, expert_weights, is_conv1d, is_experts
from masklearn.model.naming import check_tensor, from_stored, linear_name, to_stored
from masklearn.model.store import WeightStore


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights [N, K] of all linears of a transformers model, by module name after `as_linears`.

    The tensors are views, so that writing to them changes the model.
    """
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weights[name] = module.weight.data
        elif is_conv1d(module):
            weights[name] = module.weight.data.T
        elif is_experts(module):
            for i, expert in enumerate(expert_weights(module)):
                weights |= {f"{name}.{i}.{kind}": weight.data for kind, weight in expert.items()}
    return weights


def linear_modules(model: nn.Module, checkpoint: Checkpoint) -> dict[str, nn.Linear]:
    """Returns the linears of a whole model by checkpoint name. It calls `as_linears`, which changes the model in place."""
    as_linears(model)
    return {
        linear_name(checkpoint, name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def read_linear(checkpoint: Checkpoint, linear: str) -> Tensor:
    """Read the weight of a linear, fp32 [N, K]. Raises MaskLearnError if it holds NaN or infinity."""
    name = f"{linear}.weight"
    return from_stored(checkpoint, name, checkpoint.read_finite(name)).contiguous()


def write_linear(store: WeightStore, checkpoint: Checkpoint, linear: str, weight: Tensor) -> None:
    """Store a new weight [N, K] of a linear in the checkpoint's layout and dtype. Raises as `WeightStore.put` does."""
    name = f"{linear}.weight"
    store.put(name, to_stored(checkpoint, name, weight), checkpoint.entry(name))


def read_tensor(checkpoint: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    """Read a tensor of the model as fp32; name: its checkpoint name; shape: its shape in the model.

    Raises MaskLearnError if it is missing, has another shape, or holds NaN or infinity.
    """
    check_tensor(checkpoint, name, shape)
    return from_stored(checkpoint, name, checkpoint.read_finite(name)).contiguous()
