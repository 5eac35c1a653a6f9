"""Checkpoints of seeded random weights in the shape of known models, written shard by shard, and random text for them."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn import Checkpoint, LearnRecipe, Task, covered_linears_of, write_shard
from masklearn.text.calibrate import pool_of
from masklearn.text.source import SourceKind

# Configurations of transformers.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 30,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
_STD = 0.02


def write_checkpoint(folder: Path, config: dict[str, Any], seed: int = 0) -> None:
    """Write a llama checkpoint of normal fp16 weights: a shard per block, and a shard for the rest."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    hidden, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    values = config["hidden_size"] // config["num_attention_heads"] * config["num_key_value_heads"]
    block = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (values, hidden),
        "self_attn.v_proj": (values, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shards: list[dict[str, tuple[int, ...]]] = [
        {f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()}
        for i in range(config["num_hidden_layers"])
    ]
    rest = {"model.embed_tokens": (words, hidden), "model.norm": (hidden,), "lm_head": (words, hidden)}
    shards.append({f"{name}.weight": shape for name, shape in rest.items()})
    rng, index = np.random.default_rng(seed), {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        index |= dict.fromkeys(shard, file)

        def tensor(name: str, shapes: dict[str, tuple[int, ...]] = shard) -> NDArray[np.float16]:
            if len(shapes[name]) == 1:
                return np.ones(shapes[name], np.float16)
            return (rng.standard_normal(shapes[name], np.float32) * np.float32(_STD)).astype(np.float16)

        write_shard(folder / file, {name: ("F16", shape) for name, shape in shard.items()}, tensor, {})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_tokenizer(folder: Path, words: int) -> None:
    """Write a tokenizer of `words` tokens, at least 257. A token is a byte; the others stand for nothing, the last for the
    end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = dict(
        zip([*letters, *(f"<{i}>" for i in range(len(letters), words))], range(words), strict=True)
    )
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=f"<{words - 1}>").save_pretrained(folder)


def random_tokens(words: int, count: int, length: int, seed: int = 0) -> NDArray[np.int64]:
    """Returns windows `[count, length]` of token ids below `words`."""
    return np.random.default_rng(seed).integers(0, words, (count, length))


def random_task(folder: Path, recipe: LearnRecipe, scratch: Path, **options: Any) -> Task:
    """Returns the task of learning a checkpoint, which has no tokenizer, from random tokens. Notes go to stderr.

    options: further arguments of `Task`.
    """
    checkpoint, note = Checkpoint.open(folder), partial(print, file=sys.stderr)
    task = Task(checkpoint, covered_linears_of(checkpoint, (), ()), recipe, scratch, note=note, **options)
    count = recipe.calibration_windows(task.coverage.widest)
    tokens = random_tokens(checkpoint.config["vocab_size"], count, recipe.length)
    pool = pool_of(tokens, count, recipe, SourceKind.SELF, "random tokens")
    task.__dict__["text"] = pool  # the cached property
    return task
