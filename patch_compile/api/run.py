"""`run`: continue prompts with what `build` wrote."""

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
    """Continue prompts as one batch with what `build` wrote: its engine on a GPU, else its ONNX file on ONNX Runtime.

    path: OUT, an engine or an ONNX file; runner, plugin, tokenizer: see `open_generator`. chat: each prompt is what a user
    says, by the model's chat template. new_tokens: most tokens to generate. temperature, top_k, top_p,
    repetition_penalty: None takes what generation_config.json says; seed: None draws anew each time; stop: end before any
    of these texts. say: called with what runs the model, before it does; show: called with the first prompt's text, piece
    by piece.

    `open_generator` keeps the model loaded for more than one call. Raises UsageError for a setting that is not valid and
    PatchCompileError when nothing in OUT can be run here, saying why.
    """
    from patch_compile.runtime.run import generate

    return Generated(
        generate(
            Path(path),
            prompts,
            runner=runner,
            plugin=None if plugin is None else Path(plugin),
            tokenizer=None if tokenizer is None else Path(tokenizer),
            chat=chat,
            new_tokens=new_tokens,
            stop=stop,
            sampling={name: given[name] for name in _SAMPLING if name in given},
            say=say,
            show=show,
        )
    )
