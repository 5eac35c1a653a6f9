"""Tiny random models of every covered architecture, with a tokenizer, written as Hugging Face directories."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

# fmt: off
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far", "from", "big", "red", "house", "in",
         "rain", "while", "birds", "sang", "low"]
# fmt: on

# Sizes that exercise ragged tiles (32x32) and grouped query attention; mistral's window is shorter than the text.
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
EXTRA: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5, "head_dim": 12},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"head_dim": 20},
}

ModelMaker = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """make_model(model_type="llama", shard="5GB", dtype=float32, **config): a directory of its own."""

    def make(
        model_type: str = "llama", shard: str = "5GB", dtype: torch.dtype = torch.float32, **settings: Any
    ) -> Path:
        config = AutoConfig.for_model(model_type, **(SIZES | EXTRA[model_type] | settings))
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # random norms and wide weights, so that features differ in scale
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        path = tmp_path / f"{model_type}-{len(list(tmp_path.iterdir()))}"
        model.to(dtype).save_pretrained(path, max_shard_size=shard)
        _tokenizer().save_pretrained(path)
        return path

    return make


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Words of the tiny tokenizer, 400 tokens."""
    path = tmp_path / "text.txt"
    path.write_text(" ".join(WORDS[(i * i) % len(WORDS)] for i in range(400)))
    return path


@pytest.fixture
def sample_model() -> Path:
    """The real sample model; `make test` fetches it."""
    return Path(os.environ.get("PATCH_COMPILE_MODEL", ".cache/models/smollm2-135m"))


@pytest.fixture
def sample_texts() -> Path:
    """The directory of sample texts; `make test` fetches it."""
    return Path(os.environ.get("PATCH_COMPILE_TEXTS", ".cache/texts"))


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
