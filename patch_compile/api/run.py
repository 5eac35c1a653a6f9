"""`run`: continue prompts with a finished build."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import Generated

__all__ = ["run"]

_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")


@takes_given
def run(
    given: Given,
    path: StrPath,
    prompts: Sequence[str],
    *,
    runner: Literal["engine", "onnx"] | None = None,
    plugin: StrPath | None = None,
    trust: bool = False,
    tokenizer: StrPath | None = None,
    chat: bool = False,
    new_tokens: int = 128,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    say: Callable[[str], object] | None = None,
    show: Callable[[str], object] | None = None,
) -> Generated:
    """Continue prompts as one batch with a build: its engine on a GPU, else its ONNX file in ONNX Runtime.

    path: OUT, an engine or an ONNX file. runner, plugin, trust, tokenizer: see `open_generator`. chat: format each prompt as
    a user's message, with the model's chat template. new_tokens: maximum number of tokens to generate. temperature, top_k,
    top_p, repetition_penalty: None takes the value of generation_config.json. seed: None draws differently each time.
    stop: stop before any of these texts. say: called once, before generation, with a description of the runner. show:
    called with the text of the first prompt, piece by piece.

    `open_generator` keeps the model loaded for several calls. Raises UsageError for an invalid setting, and
    PatchCompileError with the reason if this machine cannot run anything in OUT.
    """
    from patch_compile.runtime.run import generate

    return Generated(
        generate(
            Path(path),
            prompts,
            runner=runner,
            plugin=None if plugin is None else Path(plugin),
            trust=trust,
            tokenizer=None if tokenizer is None else Path(tokenizer),
            chat=chat,
            new_tokens=new_tokens,
            stop=stop,
            sampling={name: given[name] for name in _SAMPLING if name in given},
            say=say,
            show=show,
        )
    )
