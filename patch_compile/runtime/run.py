"""`patch-compile run`: generates text with a build, on its engine or its ONNX file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from patch_compile.runtime import Generator, Piece, Sampling, open_generator

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
    """Continue the prompts as one batch. Returns the completions and their times, as `--json` prints them.

    say: called with the description of the runner, before it runs; show: called with each new text of the first prompt;
    chat: put each prompt into the model's chat template as a message of the user; sampling: fields of `Sampling` that
    override the model's generation_config.json; where: arguments of `open_generator`.
    """
    generator = open_generator(path, **where)
    say(generator.about)
    ids = [_encode(generator, prompt, chat) for prompt in prompts]
    settings: Sampling = replace(generator.sampling, **(sampling or {}))
    came: list[float] = []

    def each(piece: Piece) -> None:
        came.append(time.perf_counter())
        if show and piece.row == 0 and piece.text:
            show(piece.text)

    start = time.perf_counter()
    made = generator.generate(ids, settings, new_tokens=new_tokens, stop=stop, each=each)
    steps = max(len(one.tokens) for one in made) - 1
    return {
        "runner": generator.about,
        "completions": [{"prompt": prompt, **asdict(one)} for prompt, one in zip(prompts, made, strict=True)],
        "seconds": {"first_token": round(came[0] - start, 4), "all": round(came[-1] - start, 4)},
        "ms_per_step": round((came[-1] - came[0]) / steps * 1e3, 3) if steps else None,
    }


def _encode(generator: Generator, prompt: str, chat: bool) -> list[int]:
    return generator.encode_chat([{"role": "user", "content": prompt}]) if chat else generator.encode(prompt)
