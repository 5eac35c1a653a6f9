"""Text that the model writes itself, for calibration or evaluation where the user gives none.

As in LLM-QAT (arXiv 2305.17888): sampled from the start token, so it needs no data and follows what the model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.architectures import cache_argument
from masklearn.errors import PatchCompileError

__all__ = ["write_text"]

# Short documents, many at a time: a step reads all weights and the whole cache, so 16 documents of 512 tokens take
# several times as long as 64 of 128.
_DOCUMENT = 128
_BATCH = 64


def write_text(
    model_dir: Path,
    windows: int,
    length: int,
    seed: int,
    progress: Callable[[str, int, int], object] | None = None,
) -> NDArray[np.int64]:
    """Token windows `[windows, length]`, sampled at temperature 1; the same for a seed on the same machine.

    A window holds documents of up to 128 tokens, each after a start token. Loads the whole model in fp32. Raises
    PatchCompileError when the model names no start token.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    start = _start_token(model.config, model_dir)
    torch.manual_seed(seed)
    documents = -(-windows * length // _DOCUMENT)
    written = []
    for first in range(0, documents, _BATCH):
        count = min(_BATCH, documents - first)
        for tokens in _sample(model, torch.full((count, 1), start)):
            if progress:
                progress("writing text", first * _DOCUMENT + tokens.numel(), documents * _DOCUMENT)
        written.append(tokens.numpy())
    return np.concatenate(written).reshape(-1)[: windows * length].reshape(windows, length).astype(np.int64)


def _sample(model: Any, tokens: Any) -> Iterator[Any]:
    """Yield `[documents, 1]`, `[documents, 2]`, … up to 128 tokens; an end of text is a token like any other."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    yield tokens
    for _ in range(_DOCUMENT - 1):
        with torch.no_grad():
            logits = model(
                input_ids=tokens[:, -1:], logits_to_keep=1, **{cache_argument(model): cache}
            ).logits
        tokens = torch.cat([tokens, torch.multinomial(logits[:, -1].float().softmax(-1), 1)], dim=1)
        yield tokens


def _start_token(config: Any, model_dir: Path) -> int:
    for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int):
            return token
    raise PatchCompileError(
        f"{model_dir} names no start token",
        "without one the model cannot write its own text",
        "give --calib and --eval",
    )
