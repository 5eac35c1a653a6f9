"""Modules of a model in forms that all other code handles: `nn.Linear`s with weight [N, K], the rule behind the head,
the precision in which they compute, and hooks that are removed again.

Two forms of linears differ. `Conv1D` (GPT-2) keeps [K, N], in modules and in checkpoints. The experts of a mixture are a
single 3-D parameter in transformers 5, and a matrix per expert in checkpoints.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


def as_linears(model: nn.Module) -> None:
    """Replace every `Conv1D` and every module of fused experts by `nn.Linear`s of the same weights, in place.

    All later code then handles `nn.Linear` only. The new modules share the memory of the old weights and compute the same
    outputs, but `save_pretrained` no longer writes the files that transformers would write.

    Numbers that a checkpoint holds as buffers, such as the bias by which DeepSeek V3 chooses experts, become parameters
    that do not train: code that reads and writes parameters then handles them too.
    """
    for module in list(model.modules()):
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name not in module._non_persistent_buffers_set and buffer.is_floating_point():
                delattr(module, name)
                module.register_parameter(name, nn.Parameter(buffer.detach(), requires_grad=False))
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if is_conv1d(module):
            setattr(model.get_submodule(parent), child, _linear(module.weight.T, module.bias))
        elif is_experts(module):
            setattr(model.get_submodule(parent), child, _Experts(module))


def routed_sum(
    hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor, experts: Sequence[Callable[[Tensor], Tensor]]
) -> Tensor:
    """Returns the weighted sum [tokens, H] of the outputs of each token's experts.

    hidden: [tokens, H]; top_k_index, top_k_weights: [tokens, k]. Each expert runs once, on its tokens, of which there may
    be none. Outputs go to a place of their own before they are summed: adding them where they belong would take ScatterND
    with a reduction, for which ONNX Runtime has no fp16 and TensorRT nothing.
    """
    tokens, chosen = top_k_index.shape
    places = torch.zeros(tokens * chosen, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
    for i, expert in enumerate(experts):
        token, choice = torch.where(top_k_index == i)
        states = expert(hidden[token]) * top_k_weights[token, choice, None]
        places[token * chosen + choice] = states.to(places.dtype)
    return places.reshape(tokens, chosen, hidden.shape[1]).sum(dim=1)


def is_conv1d(module: nn.Module) -> bool:
    """True for transformers' linear whose weight is [K, N]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Returns a linear that shares the memory of this weight [N, K]."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), bias.requires_grad)
    return linear


def is_experts(module: nn.Module) -> bool:
    """True for a module of fused experts: gate_up_proj [experts, 2 I, H], down_proj [experts, H, I]."""
    parameters = dict(module.named_parameters(recurse=False))
    if set(parameters) != {"gate_up_proj", "down_proj"}:
        return False
    (experts, width, hidden), down = parameters["gate_up_proj"].shape, parameters["down_proj"].shape
    return tuple(down) == (experts, hidden, width // 2)


def expert_weights(module: Any) -> list[dict[str, Tensor]]:
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
        super().__init__(_Expert(weights, fused.act_fn) for weights in expert_weights(fused))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Returns the weighted sum of the experts' outputs, [tokens, H].

        hidden: [tokens, H]; top_k_index, top_k_weights: [tokens, k]. Experts without tokens run on an empty tensor, so that
        hooks on their linears are always called.
        """
        return routed_sum(hidden, top_k_index, top_k_weights, list(self))


class LogitRule(nn.Module):
    """Scales logits, as Cohere and Granite do, then caps them softly, as Gemma 2 does: cap · tanh(logits / cap).

    cap: None for none.
    """

    def __init__(self, scale: float, cap: float | None) -> None:
        super().__init__()
        self.scale, self.cap = scale, cap

    @classmethod
    def of(cls, config: Any) -> "LogitRule | None":
        """Returns the rule of a model's config, or None if the head's results are the logits."""
        text = config.get_text_config()
        cap = getattr(text, "final_logit_softcapping", None)
        scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
        return (
            None if cap is None and scale == 1.0 else cls(float(scale), None if cap is None else float(cap))
        )

    def forward(self, results: Tensor) -> Tensor:
        """Returns the logits of a head's results, which may have any shape."""
        scaled = results if self.scale == 1.0 else results * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def pull_back(self, gradient: Tensor, logits: Tensor) -> None:
        """Turn the gradient with respect to these logits, in place, into the gradient with respect to the head's results."""
        if self.cap is not None:
            gradient *= 1.0 - (logits / self.cap).square()
        if self.scale != 1.0:
            gradient *= self.scale


@contextmanager
def removed_after(handles: Iterable[Any]) -> Iterator[None]:
    """Remove hooks on leaving. If registering a hook fails, the hooks before it are removed too."""
    registered: list[Any] = []
    try:
        registered.extend(handles)
        yield
    finally:
        for handle in registered:
            handle.remove()


_ATTENTION = "sdpa_fp32_on_cpu"


def keep_attention_in_fp32(model: Any) -> None:
    """Make the model's `sdpa` compute in fp32 under autocast on a CPU. On other devices nothing changes."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(_ATTENTION)


def computes_in_bf16(device: torch.device) -> bool:
    """Returns True if linears compute in bf16 under autocast, which they do on a device that computes in it natively.

    A CPU without native bf16 converts to fp32 and back, which is slower than fp32. With AVX512-BF16 (AMD EPYC, Zen 4) a
    matmul of SmolLM2-135M takes 0.47 of its fp32 time.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Compute `sdpa`, in fp32 on a CPU.

    On a CPU fp32 is as fast as bf16 (torch 2.13, AVX512-BF16), and its results are closer to the dense model's.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, mask, **settings)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), mask, **settings
        )
        return output, None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
