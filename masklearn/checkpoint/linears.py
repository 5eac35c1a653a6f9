"""Makes every linear an `nn.Linear` with weight [N, K], whatever its layout in transformers or in the checkpoint.

Two layouts differ. `Conv1D` (GPT-2) keeps [K, N], in modules and in checkpoints. The experts of a mixture are one 3-D
parameter in transformers 5, and one matrix per expert in checkpoints.
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

    All later code then handles `nn.Linear` only. The new modules share the memory of the old weights and compute the same
    outputs, but `save_pretrained` no longer writes the files that transformers would write.
    """
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if _is_conv1d(module):
            setattr(model.get_submodule(parent), child, _linear(module.weight.T, module.bias))
        elif _is_experts(module):
            setattr(model.get_submodule(parent), child, _Experts(module))


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights [N, K] of all linears of a transformers model, by module name after `as_linears`.

    The tensors are views, so that writing to them changes the model.
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
    """Returns the linears of a whole model by checkpoint name. It calls `as_linears`, which changes the model in place."""
    as_linears(model)
    return {
        linear_name(checkpoint, name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def read_linear(checkpoint: Checkpoint, linear: str) -> Tensor:
    """Read the weight of a linear, fp32 [N, K]. Raises PatchCompileError if it holds NaN or infinity."""
    name = f"{linear}.weight"
    return from_stored(checkpoint, name, checkpoint.read_finite(name)).contiguous()


def write_linear(store: WeightStore, checkpoint: Checkpoint, linear: str, weight: Tensor) -> None:
    """Store a new weight [N, K] of a linear in the checkpoint's layout and dtype. Raises as `WeightStore.put` does."""
    name = f"{linear}.weight"
    store.put(name, to_stored(checkpoint, name, weight), checkpoint.entry(name))


def read_tensor(checkpoint: Checkpoint, name: str, shape: torch.Size) -> Tensor:
    """Read a tensor of the model as fp32; name: its checkpoint name; shape: its shape in the model.

    Raises PatchCompileError if it is missing, has another shape, or holds NaN or infinity.
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
            f"{name} is {list(checkpoint.shape(name))} in {checkpoint.path}",
            f"config.json makes it {list(stored)}.",
            "Use the config.json that belongs to the weights.",
        )
    return from_stored(checkpoint, name, checkpoint.read_finite(name)).contiguous()


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Returns a linear that shares the memory of this weight [N, K]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), bias.requires_grad)
    return linear


def _is_experts(module: nn.Module) -> bool:
    """True for a module of fused experts: gate_up_proj [experts, 2 I, H], down_proj [experts, H, I]."""
    parameters = dict(module.named_parameters(recurse=False))
    if set(parameters) != {"gate_up_proj", "down_proj"}:
        return False
    (experts, width, hidden), down = parameters["gate_up_proj"].shape, parameters["down_proj"].shape
    return tuple(down) == (experts, hidden, width // 2)


def _expert_weights(module: Any) -> list[dict[str, Tensor]]:
    """Returns views of the weights [N, K] of every expert, in the order in which its linears run."""
    half = module.down_proj.shape[2]
    return [
        {"gate_proj": gate_up[:half], "up_proj": gate_up[half:], "down_proj": down}
        for gate_up, down in zip(module.gate_up_proj, module.down_proj, strict=True)
    ]


class _Expert(nn.Module):
    """Expert of three linears: down(act(gate(x)) * up(x))."""

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
    """Module of experts with linears, which replaces a module of fused experts."""

    def __init__(self, fused: Any) -> None:
        super().__init__(_Expert(weights, fused.act_fn) for weights in _expert_weights(fused))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Returns the weighted sum of the experts' outputs, [tokens, H].

        hidden: [tokens, H]; top_k_index, top_k_weights: [tokens, k]. Experts without tokens run on an empty tensor, so that
        hooks on their linears are always called.
        """
        output = torch.zeros_like(hidden)
        for i, expert in enumerate(self):
            token, choice = torch.where(top_k_index == i)
            states = expert(hidden[token]) * top_k_weights[token, choice, None]
            output.index_add_(0, token, states.to(output.dtype))
        return output
