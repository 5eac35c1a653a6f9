"""Lets the model write its own text, for calibration or evaluation if the user gives none.

The text is sampled from the start token, as in LLM-QAT (arXiv 2305.17888): it needs no data and follows the model's own
distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.device import available_memory, usable_device
from masklearn.base.errors import MaskLearnError
from masklearn.model.architectures import longest_window
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import stated_dtype
from masklearn.model.models import load_model
from masklearn.model.pretrained import cache_argument, load_config

if TYPE_CHECKING:
    import torch

# Many short documents at a time: a step reads all weights and the whole KV cache, so 16 documents of 512 tokens take
# several times as long as 64 documents of 128 tokens.
_DOCUMENT = 128
_BATCH = 64
# Memory per byte of the weights. It covers the weights, the KV cache and logits of a batch, and the overhead of loading.
_MEMORY_LEFT = 1.2


def write_text(
    model_dir: Path,
    windows: int,
    length: int,
    seed: int,
    progress: Callable[[str, int, int], object] | None = None,
    *,
    device: str | None = None,
) -> NDArray[np.int64]:
    """Returns token windows `[windows, length]`, sampled at temperature 1. A seed gives equal text on equal machines.

    A window holds documents of up to 128 tokens, each with a start token. The whole model is loaded: in fp32 on a CPU, or
    in the checkpoint's own type on a GPU and if fp32 does not fit. device: None for CUDA if there is one.

    Raises MaskLearnError if the device can't be used, or if the model does not fit, is not a causal language model, or
    does not name a start token.
    """
    import torch

    checkpoint, on = Checkpoint.open(model_dir), usable_device(device)
    check_writes(checkpoint, device)
    model = load_model(model_dir, dtype=_type_that_fits(checkpoint, on)).to(on)
    config = model.config.get_text_config()
    start = _start_token(config, model_dir)
    document = min(_DOCUMENT, longest_window(checkpoint.architecture, config) or _DOCUMENT)
    generator = torch.Generator(model.device).manual_seed(seed)
    documents = -(-windows * length // document)
    written = []
    for first in range(0, documents, _BATCH):
        count = min(_BATCH, documents - first)
        starts = torch.full((count, 1), start, device=model.device)
        for tokens in _sample(model, starts, document, generator):
            if progress:
                progress("writing text", first * document + tokens.numel(), documents * document)
        written.append(tokens.cpu().numpy())
    return np.concatenate(written).reshape(-1)[: windows * length].reshape(windows, length).astype(np.int64)


def _sample(
    model: Any, tokens: torch.Tensor, length: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield `[documents, 1]`, `[documents, 2]`, … up to `length` tokens. Documents continue after an end-of-text token."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    yield tokens
    for _ in range(length - 1):
        with torch.no_grad():
            logits = model(
                input_ids=tokens[:, -1:], logits_to_keep=1, **{cache_argument(model): cache}
            ).logits
        chances = logits[:, -1].float().softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
        yield tokens


def check_writes(checkpoint: Checkpoint, device: str | None = None) -> None:
    """Raise MaskLearnError as `write_text` does for a model that can't write its own text."""
    if checkpoint.architecture.encoder:
        raise MaskLearnError(
            f"{checkpoint.path} cannot write its own text",
            "It is an encoder, not a causal language model.",
            "Give text with `calib`.",
        )
    _start_token(load_config(checkpoint.path).get_text_config(), checkpoint.path)
    _type_that_fits(checkpoint, usable_device(device))


def _type_that_fits(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """Returns the type in which the model fits into the device's memory."""
    import torch

    stored = checkpoint.bytes()
    weights = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    own = {"F16": torch.float16, "BF16": torch.bfloat16}.get(
        stated_dtype(checkpoint.config) or "", torch.float32
    )
    free = available_memory(device)
    if device.type == "cpu" and 4 * weights * _MEMORY_LEFT <= free:
        return torch.float32
    if stored * _MEMORY_LEFT > free:
        raise MaskLearnError(
            f"{checkpoint.path} does not fit into memory to write its own text",
            f"Its weights take {stored / 1e9:.1f} GB, {free / 1e9:.1f} GB of {device.type} memory are free.",
            "Give text with `calib` (and `eval_text`).",
        )
    return own


def _start_token(config: Any, model_dir: Path) -> int:
    for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int):
            return token
    raise MaskLearnError(
        f"{model_dir} names no start token",
        "Without a start token the model cannot write its own text.",
        "Give text with `calib` and `eval_text`.",
    )
