"""Every linear as an `nn.Linear` with weight [N, K], however transformers or the checkpoint lay it out.

Two layouts differ. `Conv1D` (GPT-2) keeps [K, N], in modules and in checkpoints. Experts of a mixture are one 3-D
parameter in transformers 5 and a matrix each in checkpoints.
"""

from typing import Any

import torch
from torch import Tensor, nn

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.naming import linear_name
from masklearn.checkpoint.orientation import from_stored, stored_shape, to_stored
from masklearn.checkpoint.store import WeightStore
from masklearn.errors import PatchCompileError

__all__ = [
    "as_linears",
    "linear_modules",
    "linear_weights",
    "read_linear",
    "read_tensor",
    "write_linear",
]


def as_linears(model: nn.Module) -> None:
    """Replace every `Conv1D` and every module of fused experts by `nn.Linear`s of the same weights, in place.

    What comes after sees `nn.Linear` only. Memory is shared where there is any; the model computes what it did,
    but no longer saves as transformers would save it.
    """
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if _is_conv1d(module):
            setattr(model.get_submodule(parent), child, _linear(module.weight.T, module.bias))
        elif _is_experts(module):
            setattr(model.get_submodule(parent), child, _Experts(module))


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights [N, K] of all linears of a model as transformers builds it: views, so that writes reach the model.

    By module name; those of experts are the names they have after `as_linears`.
    """
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weights[name] = module.weight.data
        elif _is_conv1d(module):
            weights[name] = module.weight.data.T
        elif _is_experts(module):
            for i, expert in enumerate(_expert_weights(module)):
                weights |= {f"{name}.{i}.{kind}": weight.data for kind, weight in expert.items()}
    return weights


def linear_modules(model: nn.Module, checkpoint: Checkpoint) -> dict[str, nn.Linear]:
    """The linears of a whole model by checkpoint name, after `as_linears`, which changes the model in place."""
    as_linears(model)
    return {
        linear_name(checkpoint, name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def read_linear(checkpoint: Checkpoint, linear: str) -> Tensor:
    """The weight of a linear, fp32 [N, K]; PatchCompileError when it holds NaN or infinity."""
    name = f"{linear}.weight"
    return from_stored(checkpoint, name, checkpoint.read_finite(name)).contiguous()


def write_linear(store: WeightStore, checkpoint: Checkpoint, linear: str, weight: Tensor) -> None:
    """Keep a new weight [N, K] for a linear, in the layout and dtype of the checkpoint; see `WeightStore.put`."""
    name = f"{linear}.weight"
    store.put(name, to_stored(checkpoint, name, weight), checkpoint.entry(name))


def read_tensor(checkpoint: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    """A tensor of the model, fp32, by its checkpoint name.

    PatchCompileError when it is missing, has another shape than the model's, or holds NaN or infinity.
    """
    stored = stored_shape(checkpoint, name, shape)
    if name not in checkpoint:
        raise PatchCompileError(
            f"{checkpoint.path} has no {name}",
            "config.json describes a model that has it.",
            "Fetch the checkpoint again.",
        )
    if checkpoint.shape(name) != stored:
        raise PatchCompileError(
            f"{name} is {list(checkpoint.shape(name))} in the checkpoint",
            f"config.json makes it {list(stored)}.",
            "Use the config.json that belongs to the weights.",
        )
    return from_stored(checkpoint, name, checkpoint.read_finite(name)).contiguous()


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear of this weight [N, K], without memory of its own."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), bias.requires_grad)
    return linear


def _is_experts(module: nn.Module) -> bool:
    """Fused experts: gate_up_proj [experts, 2 I, H], down_proj [experts, H, I]."""
    parameters = dict(module.named_parameters(recurse=False))
    if set(parameters) != {"gate_up_proj", "down_proj"}:
        return False
    (experts, width, hidden), down = parameters["gate_up_proj"].shape, parameters["down_proj"].shape
    return tuple(down) == (experts, hidden, width // 2)


def _expert_weights(module: Any) -> list[dict[str, Tensor]]:
    """Views of the weights [N, K] of every expert, in the order in which its linears run."""
    half = module.down_proj.shape[2]
    return [
        {"gate_proj": gate_up[:half], "up_proj": gate_up[half:], "down_proj": down}
        for gate_up, down in zip(module.gate_up_proj, module.down_proj, strict=True)
    ]


class _Expert(nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, weights: dict[str, Tensor], activation: nn.Module) -> None:
        super().__init__()
        self.gate_proj = _linear(weights["gate_proj"])
        self.up_proj = _linear(weights["up_proj"])
        self.down_proj = _linear(weights["down_proj"])
        self.act_fn = activation

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))
        return output


class _Experts(nn.ModuleList):
    """The module of fused experts as one of linears."""

    def __init__(self, fused: Any) -> None:
        super().__init__(_Expert(weights, fused.act_fn) for weights in _expert_weights(fused))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden: [tokens, H]; top_k_index, top_k_weights: [tokens, k].

        An expert that no token is sent to runs on none, so that hooks on its linears always see a call.
        """
        output = torch.zeros_like(hidden)
        for i, expert in enumerate(self):
            token, choice = torch.where(top_k_index == i)
            states = expert(hidden[token]) * top_k_weights[token, choice, None]
            output.index_add_(0, token, states.to(output.dtype))
        return output
