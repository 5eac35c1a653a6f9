"""Experts for the exporter that keep the weights of all experts in 3-D tensors, as gpt-oss does.

Each expert multiplies the tokens that are routed to it; their number is known only when the graph runs. Experts with a
matrix each are linears, which compute in the same way: `masklearn.model.as_linears`.
"""

from functools import partial
from typing import Any

from torch import Tensor

from masklearn.model.as_linears import routed_sum

__all__ = ["experts_implementation"]

_ROUTED = "patch_compile_routed_experts"


def experts_implementation() -> str:
    """Register the implementation with transformers and return its name."""
    from transformers.integrations.moe import ExpertsInterface

    ExpertsInterface.register(_ROUTED, _routed)
    return _ROUTED


def _routed(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Returns the weighted sum of the experts' outputs, [tokens, H].

    experts: module of a class that transformers decorates with `use_experts_implementation`; hidden: [tokens, H];
    top_k_index, top_k_weights: [tokens, k].
    """
    return routed_sum(
        hidden, top_k_index, top_k_weights, [partial(_run, experts, i) for i in range(experts.num_experts)]
    )


def _run(experts: Any, expert: int, states: Tensor) -> Tensor:
    """Returns one expert's outputs [tokens, H] for its tokens."""
    states = _product(experts, "gate_up_proj" if experts.has_gate else "up_proj", expert, states)
    states = experts._apply_gate(states) if experts.has_gate else experts.act_fn(states)
    states = _product(experts, "down_proj", expert, states)
    normed: Tensor = experts.post_expert_norm(states) if experts.has_post_expert_norm else states
    return normed


def _product(experts: Any, name: str, expert: int, states: Tensor) -> Tensor:
    weight = getattr(experts, name)[expert]
    product: Tensor = states @ (weight if experts.is_transposed else weight.T)
    return product + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else product
