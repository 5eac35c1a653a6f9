"""`patch-compile run`: generate with what a build wrote, on whatever of this machine can run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from patch_compile.runtime import Generator, Sampling, open_generator

__all__ = ["run"]


def run(
    path: Path,
    prompts: Sequence[str],
    *,
    say: Callable[[str], object],
    show: Callable[[str], object] | None = None,
    chat: bool = False,
    new_tokens: int = 128,
    stop: Sequence[str] = (),
    sampling: dict[str, Any] | None = None,
    **where: Any,
) -> dict[str, Any]:
    """Continue the prompts as one batch; returns what came, and how fast.

    say: takes what runs it, before it does; show: takes the text of the first prompt as it comes; chat: prompts are
    what a user says to the model; sampling: of `Sampling`, in place of what the model's generation_config.json says;
    where: of `open_generator`.
    """
    generator = open_generator(path, **where)
    say(generator.about)
    ids = [_encode(generator, prompt, chat) for prompt in prompts]
    settings: Sampling = replace(generator.sampling, **(sampling or {}))
    start = time.perf_counter()
    first = start
    texts, tokens, finish = [""] * len(ids), [list[int]() for _ in ids], [""] * len(ids)
    for piece in generator.stream(ids, settings, new_tokens=new_tokens, stop=stop):
        if not any(tokens):
            first = time.perf_counter()
        texts[piece.row] += piece.text
        tokens[piece.row].append(piece.token)
        finish[piece.row] = str(piece.finish or "")
        if show and piece.row == 0 and piece.text:
            show(piece.text)
    end = time.perf_counter()
    steps = max(map(len, tokens)) - 1
    rows = zip(prompts, texts, tokens, ids, finish, strict=True)
    return {
        "runner": generator.about,
        "completions": [
            {"prompt": prompt, "text": text, "tokens": new, "prompt_tokens": len(given), "finish": why}
            for prompt, text, new, given, why in rows
        ],
        "seconds": {"first_token": round(first - start, 4), "all": round(end - start, 4)},
        "ms_per_step": round((end - first) / steps * 1e3, 3) if steps else None,
    }


def _encode(generator: Generator, prompt: str, chat: bool) -> list[int]:
    return generator.encode_chat([{"role": "user", "content": prompt}]) if chat else generator.encode(prompt)
