"""Converts a GGUF file of the llama or qwen2 architecture to a Hugging Face directory.

transformers can load such a file (with accelerate) but can't save it again, and it would hold two copies in fp32.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
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


@dataclass(frozen=True)
class _Family:
    """What differs between the architectures. config: fields of their own; pairs: True if the file holds the rows of q and k
    in llama.cpp's order of rotated pairs; stored: safetensors code of the weights, the type that the model was trained in.
    """

    config: dict[str, Any]
    pairs: bool
    stored: str


_DTYPES = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}
_FAMILIES = {
    "llama": _Family(
        {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "mlp_bias": False,
            "dtype": "float16",
        },
        pairs=True,
        stored="F16",
    ),
    "qwen2": _Family(
        {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, "dtype": "bfloat16"},
        pairs=False,
        stored="BF16",
    ),
}


def convert(source: Path, directory: Path) -> None:
    """Write config, weights, generation config and tokenizer of `source` into `directory`.

    The weights are written in the type of the engine, fp16 or bf16. The file stores blocks of values on a grid of few levels
    (16 in Q4_1 and Q4_K), with steps that are more than ten times coarser than the rounding of either type.
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

    def of_model(name: str) -> Any:
        return field(f"{kind}.{name}")

    kind = field("general.architecture")
    heads, hidden = of_model("attention.head_count"), of_model("embedding_length")
    return {
        **_FAMILIES[kind].config,
        "model_type": kind,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": of_model("feed_forward_length"),
        "max_position_embeddings": of_model("context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": of_model("block_count"),
        "num_key_value_heads": of_model("attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": float(f"{of_model('attention.layer_norm_rms_epsilon'):.6g}"),  # stored as fp32
        "rope_theta": float(of_model("rope.freq_base")),
        "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in reader.tensors),
        "vocab_size": len(field("tokenizer.ggml.tokens")),
    }


def _write_weights(reader: Any, config: dict[str, Any], path: Path) -> None:
    family = _FAMILIES[config["model_type"]]
    tensors = {_parameter(tensor.name): tensor for tensor in reader.tensors}
    specs = {
        name: (family.stored, tuple(int(n) for n in reversed(t.shape))) for name, t in sorted(tensors.items())
    }

    def values_of(name: str) -> NDArray[Any]:
        from gguf.quants import dequantize

        values = dequantize(tensors[name].data, tensors[name].tensor_type)
        if family.pairs and name.endswith("q_proj.weight"):
            values = _to_half_rotation(values, config["num_attention_heads"])
        if family.pairs and name.endswith("k_proj.weight"):
            values = _to_half_rotation(values, config["num_key_value_heads"])
        return values.astype(_DTYPES[family.stored])  # type: ignore[no-any-return]

    write_shard(path, specs, values_of, {"format": "pt"})


def _parameter(tensor: str) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
    *parts, kind = tensor.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_BLOCK[parts[2]]}.{kind}"
    return f"{_OUTSIDE[parts[0]]}.{kind}"


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
