"""Converts a GGUF file of the llama architecture to a Hugging Face directory.

transformers can load such a file (with accelerate) but can't save it again, and it would hold two copies in fp32.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn import write_shard
from patch_compile import PatchCompileError

# Tensor of a block in GGUF (names of llama.cpp's gguf-py) → module of transformers.
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, directory: Path) -> None:
    """Write config, weights, generation config and tokenizer of `source` into `directory`.

    The weights are written in fp16, the type of the engine. The file stores blocks of values on a grid of 16 levels
    (Q4_1), with steps a hundred times coarser than the rounding of fp16.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise PatchCompileError(
            f"{source.name} cannot be read",
            "The Python package gguf is not installed.",
            "Install it: `pip install 'patch-compile[dev]'`, or `pip install gguf`.",
        ) from error
    reader = GGUFReader(source)
    config = _config(reader)
    _write_json(directory / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(directory / "generation_config.json", ids)
    _write_weights(reader, config, directory / "model.safetensors")
    _write_tokenizer(source, config, directory)


def _config(reader: Any) -> dict[str, Any]:
    def field(name: str) -> Any:
        return reader.fields[name].contents()

    heads, hidden = field("llama.attention.head_count"), field("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "dtype": "float16",
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),  # stored as fp32
        "rope_theta": float(field("llama.rope.freq_base")),
        "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in reader.tensors),
        "vocab_size": field("llama.vocab_size"),
    }


def _write_weights(reader: Any, config: dict[str, Any], path: Path) -> None:
    tensors = {_module(tensor.name) + ".weight": tensor for tensor in reader.tensors}
    specs = {name: ("F16", tuple(int(n) for n in reversed(t.shape))) for name, t in sorted(tensors.items())}

    def weight(name: str) -> NDArray[np.float16]:
        from gguf.quants import dequantize

        values = dequantize(tensors[name].data, tensors[name].tensor_type)
        if name.endswith("q_proj.weight"):
            values = _to_half_rotation(values, config["num_attention_heads"])
        if name.endswith("k_proj.weight"):
            values = _to_half_rotation(values, config["num_key_value_heads"])
        return values.astype(np.float16)  # type: ignore[no-any-return]

    write_shard(path, specs, weight, {"format": "pt"})


def _module(tensor: str) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj`."""
    parts = tensor.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_BLOCK[parts[2]]}"
    return _OUTSIDE[parts[0]]


def _to_half_rotation(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorders the rows of each head from llama.cpp's order (rotated pairs interleaved) to Hugging Face's (two halves)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(source: Path, config: dict[str, Any], directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, local_files_only=True, trust_remote_code=False
    )
    tokenizer.model_max_length = config["max_position_embeddings"]
    tokenizer.save_pretrained(directory)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
