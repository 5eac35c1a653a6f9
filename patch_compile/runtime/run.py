"""The command `run`: continues prompts with a build's engine or ONNX file, and measures the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from patch_compile.errors import HOW_TO_CORRECT, PatchCompileError, UsageError
from patch_compile.runtime.continuation import Piece
from patch_compile.runtime.decoder import LogitsError
from patch_compile.runtime.generator import Completion
from patch_compile.runtime.locate import open_generator
from patch_compile.runtime.sampling import Sampling


@dataclass(frozen=True)
class Continuations:
    """The continuations of prompts, with their times.

    runner: description of what ran the model; first_token, all: seconds to the first and to the last token; ms_per_step:
    milliseconds of a step, None if there was only one token.
    """

    runner: str
    prompts: tuple[str, ...]
    completions: tuple[Completion, ...]
    first_token: float
    all: float
    ms_per_step: float | None

    def as_json(self) -> dict[str, Any]:
        """Returns the texts, tokens and times as JSON values."""
        pairs = zip(self.prompts, self.completions, strict=True)
        return {
            "runner": self.runner,
            "completions": [{"prompt": prompt, **asdict(completion)} for prompt, completion in pairs],
            "seconds": {"first_token": self.first_token, "all": self.all},
            "ms_per_step": self.ms_per_step,
        }


def generate(
    path: Path,
    prompts: Sequence[str],
    *,
    runner: str | None = None,
    plugin: Path | None = None,
    trust: bool = False,
    tokenizer: Path | None = None,
    check: bool = False,
    chat: bool = False,
    new_tokens: int = 128,
    stop: Sequence[str] = (),
    sampling: dict[str, Any] | None = None,
    say: Callable[[str], object] | None = None,
    show: Callable[[str], object] | None = None,
) -> Continuations:
    """Continue the prompts as one batch.

    runner, plugin, trust, tokenizer, check: arguments of `open_generator`; chat: put each prompt into the model's chat
    template as a message of the user; sampling: fields of `Sampling` that override the model's generation_config.json; say:
    called with the description of the runner, before it runs; show: called with each new text of the first prompt.
    """
    _check(new_tokens, sampling or {})
    generator = open_generator(
        path, runner=runner, plugin=plugin, trust=trust, tokenizer=tokenizer, check=check
    )
    if say:
        say(generator.about)
    ids = [
        generator.encode_chat([{"role": "user", "content": prompt}]) if chat else generator.encode(prompt)
        for prompt in prompts
    ]
    settings = replace(generator.sampling, **(sampling or {}))
    _check_draws(settings, sampling or {})
    came: list[float] = []

    def each(piece: Piece) -> None:
        came.append(time.perf_counter())
        if show and piece.row == 0 and piece.text:
            show(piece.text)

    start = time.perf_counter()
    try:
        made = generator.generate(ids, settings, new_tokens=new_tokens, stop=stop, each=each)
    except LogitsError as error:
        raise PatchCompileError(f"The logits of {path} are not finite", error.why, error.fix) from None
    steps = max(len(completion.tokens) for completion in made) - 1
    return Continuations(
        generator.about,
        tuple(prompts),
        tuple(made),
        round(came[0] - start, 4),
        round(came[-1] - start, 4),
        round((came[-1] - came[0]) / steps * 1e3, 3) if steps else None,
    )


def _check_draws(settings: Sampling, given: dict[str, Any]) -> None:
    """Raise UsageError for settings of draws if nothing is drawn, and the user did not ask for that."""
    idle = [name for name in ("top_k", "top_p") if name in given]
    if idle and settings.temperature == 0 and "temperature" not in given:
        raise UsageError(
            f"`{idle[0]}` changes nothing here",
            "The temperature is 0, so the most likely token is taken each time.",
            "Give --temperature too, such as 0.8, to draw tokens.",
        )


def _check(new_tokens: int, sampling: dict[str, Any]) -> None:
    """Raise UsageError for settings that no model takes, before a model is loaded."""
    Sampling(**sampling)
    if new_tokens < 1:
        raise UsageError(
            f"The setting new_tokens = {new_tokens} is not valid", "It is 1 or more.", HOW_TO_CORRECT
        )
