"""Tiny random models of decoders that have no row in the table of architectures, by the name of their `model_type`."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.conftest import tiny_tokenizer

_SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
_HEADS: dict[str, Any] = _GROUPED | {"head_dim": 20}
_WINDOW: dict[str, Any] = _GROUPED | {"sliding_window": 6}  # shorter than the tests' sequences
_LATENT: dict[str, Any] = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Settings in addition to the sizes. A name may have a variant behind a colon.
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": _GROUPED,
    "arcee": _GROUPED,
    "biogpt": {},
    "bloom": {},
    "codegen": {"rotary_dim": 8},
    "cohere": _GROUPED | {"logit_scale": 0.3},
    "cohere2": _WINDOW | {"head_dim": 16},
    "cwm": _WINDOW | {"head_dim": 16},
    "diffllama": _GROUPED,
    "ernie4_5": _HEADS,
    "exaone4": _WINDOW,
    "falcon": {"alibi": False},
    "glm": _HEADS,
    "glm4": _HEADS,
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 6},
    "gptj": {"rotary_dim": 8},
    "granite": _GROUPED
    | {
        "embedding_multiplier": 2.0,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
    },
    "granite_swa": _WINDOW,
    "helium": _GROUPED | {"head_dim": 16},  # its heads together are as wide as its hidden states
    "hunyuan_v1_dense": _HEADS,
    "jais2": _GROUPED,
    "ministral": _WINDOW | {"head_dim": 16},
    "ministral3": _HEADS,
    "mpt": {},
    "nanochat": _GROUPED,
    "nemotron": _GROUPED,
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _WINDOW,
    "persimmon": {},
    "phi": _GROUPED,
    "seed_oss": _HEADS,
    "smollm3": _GROUPED | {"no_rope_layers": [1, 1, 1, 0]},
    "stablelm": _GROUPED,
    "starcoder2": _WINDOW,
    "vaultgemma": _HEADS,
    "xglm": {},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "deepseek_v2": _LATENT | _EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1},
    "deepseek_v3": _LATENT
    | _EXPERTS
    | {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "gpt_oss": _WINDOW | _EXPERTS | {"num_local_experts": 4, "head_dim": 16},
    "mixtral": _WINDOW | _EXPERTS | {"num_local_experts": 4},
    "olmoe": _GROUPED | _EXPERTS | {"num_experts": 4},
    "qwen2_moe": _GROUPED | _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 32},
    "qwen3_moe": _HEADS | _EXPERTS | {"num_experts": 4},
}
# Those that differ most, which `make test-full` exports: ALiBi and an attention of its own; values of another size than
# keys, with experts; attention sinks, with experts in 3-D tensors. It builds two more: tests/pipeline/test_families.py.
IN_EVERY_RUN = ("bloom", "deepseek_v3", "gpt_oss")
# Torch's reasons for families that it does not export: complex numbers, and a table of masks that bounds the positions.
UNEXPORTABLE = {
    "deepseek_v2": "complex-valued",
    "gpt_neo": "Constraints violated",
    "xglm": "Constraints violated",
}
# Their checkpoints have other names than their modules, which only transformers knows.
RENAMED: dict[str, dict[str, Any]] = {
    "granitemoe": _GROUPED | _EXPERTS | {"num_local_experts": 4},
    "phimoe": _GROUPED | _EXPERTS | {"num_local_experts": 4},
}


def write_family(path: Path, name: str, **changes: Any) -> Path:
    """Write a random fp32 model with its tokenizer to `path`."""
    settings = _SIZES | (FAMILIES | MIXTURES | RENAMED)[name] | changes
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.partition(":")[0], **settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at 0 and norms at 1, which would hide their loss
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        kept = model.state_dict()
        for buffer_name, buffer in model.named_buffers():  # such as the bias that chooses experts, 0 at first
            if buffer_name in kept and buffer.ndim == 1:
                buffer.add_(0.2 * torch.randn_like(buffer))
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path
