"""Text that the model writes itself, for calibration or evaluation where the user gives none.

As in LLM-QAT (arXiv 2305.17888): sampled from the start token, so it needs no data and follows what the model knows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.architectures import cache_argument
from masklearn.errors import PatchCompileError

__all__ = ["write_text"]

_BATCH = 16


def write_text(
    model_dir: Path,
    windows: int,
    length: int,
    seed: int,
    progress: Callable[[str, int, int], object] | None = None,
) -> NDArray[np.int64]:
    """Token windows `[windows, length]`, sampled at temperature 1; the same for a seed on the same machine.

    Loads the whole model in the checkpoint's type. Raises PatchCompileError when the model names no start token.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    start = _start_token(model.config, model_dir)
    torch.manual_seed(seed)
    written = []
    for first in range(0, windows, _BATCH):
        count = min(_BATCH, windows - first)
        written.append(_sample(model, start, count, length))
        if progress:
            progress("window", first + count, windows)
    return np.concatenate(written)


def _sample(model: Any, start: int, count: int, length: int) -> NDArray[np.int64]:
    """Windows `[count, length]` after the start token; a document's end does not end its window."""
    import torch
    from transformers import DynamicCache

    tokens = torch.full((count, 1), start)
    cache = DynamicCache(config=model.config)
    out = [tokens]
    with torch.no_grad():
        for _ in range(length - 1):
            logits = model(input_ids=tokens, logits_to_keep=1, **{cache_argument(model): cache}).logits
            tokens = torch.multinomial(logits[:, -1].float().softmax(-1), 1)
            out.append(tokens)
    return np.asarray(torch.cat(out, dim=1).numpy(), np.int64)


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
