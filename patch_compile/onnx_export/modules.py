"""Builds models for tracing: parameters have a shape but no data, and every linear is an `nn.Linear`.

Where a model keeps the weights of all experts in 3-D tensors, as gpt-oss does, each expert multiplies the tokens that are
routed to it; their number is known only when the graph runs. Experts with a matrix each are linears, which compute in the
same way (`masklearn.model.modules`).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.model.architectures import Architecture
from masklearn.model.models import auto_class
from masklearn.model.modules import as_linears, routed_sum
from masklearn.model.pretrained import build_model
from patch_compile.onnx_export.attention import attention_implementation, exchanges_attention

_ROUTED = "patch_compile_routed_experts"


def build_fake_model(
    config: Any, architecture: Architecture, dtype: torch.dtype, fake_mode: Any, *, plain_ops: bool
) -> nn.Module:
    """Build the model of a config with fake parameters of `dtype`.

    Buffers are real: rotary frequencies and embedding scales are computed from the config, and no checkpoint has them.
    """
    from accelerate import init_empty_weights

    auto = auto_class(architecture)
    model_class = auto._model_mapping[type(config)]
    settings = {"attn_implementation": attention_implementation(plain_ops=plain_ops)}
    if not exchanges_attention(model_class):
        settings["attn_implementation"] = "eager"
    if model_class._can_set_experts_implementation():
        from transformers.integrations.moe import ExpertsInterface

        ExpertsInterface.register(_ROUTED, _routed)
        settings["experts_implementation"] = _ROUTED
    with init_empty_weights(include_buffers=False):
        model = build_model(auto, config, dtype=torch.float32, **settings)
    model.tie_weights()  # init_empty_weights moves each parameter to the meta device, which unties tied parameters
    as_linears(model)
    with fake_mode:
        _fake_parameters(model, dtype)
    fake: nn.Module = model.eval()
    return fake


def tied_names(model: Any) -> dict[str, str]:
    """Returns {name of the head's weight: name of the embedding's} if the two are tied, else {}.

    torch.export names a tied weight after the head; checkpoints store it as the embedding.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return {}
    names = {module: name for name, module in model.named_modules()}
    return {f"{names[head]}.weight": f"{names[embedding]}.weight"}


def _fake_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    made: dict[nn.Parameter, nn.Parameter] = {}  # keeps tied parameters tied
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in made:
                made[parameter] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), requires_grad=False)
            setattr(module, name, made[parameter])


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
