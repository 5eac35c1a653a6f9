"""`run`: continue prompts with a finished build."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Generated
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.engine.backend import Runner
from patch_compile.options import RUNNER, TRUST, Argument

_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")


@takes()
def run(
    given: Given,
    path: Annotated[StrPath, Argument("OUT, an engine or an ONNX file.", "OUT")],
    prompts: Annotated[Sequence[str], Argument("Texts to continue, as one batch.", "PROMPT…")],
    *,
    runner: Annotated[Runner | None, RUNNER] = None,
    plugin: Annotated[StrPath | None, Option(
        "Plugin library, for an engine that does not contain it.", "FILE", unset="the plugin compiled here")] = None,
    trust: Annotated[bool, TRUST] = False,
    tokenizer: Annotated[StrPath | None, Option("Folder of the tokenizer.", "DIR", unset="OUT/model")] = None,
    check: Annotated[bool, Option("Compare every file of OUT with its sha256 in the manifest first.")] = False,
    chat: Annotated[bool, Option("Treat each prompt as a user's message, in the model's chat template.")] = False,
    new_tokens: Annotated[int, Option("Largest number of tokens to generate.")] = 128,
    temperature: Annotated[float | None, Option(
        "Randomness of the draws; 0 takes the most likely token.", unset="as generation_config.json says, or 0")] = None,
    top_k: Annotated[int | None, Option("Draw from this many of the most likely tokens.")] = None,
    top_p: Annotated[float | None, Option("Draw from the most likely tokens that together have this probability.")] = None,
    repetition_penalty: Annotated[float | None, Option("Above 1 makes tokens that have occurred less likely.")] = None,
    seed: Annotated[int | None, Option("Seed of the draws.", unset="a new seed each time")] = None,
    stop: Annotated[Sequence[str], Option("End before this text; may be repeated.", "TEXT")] = (),
    say: Callable[[str], object] | None = None,
    show: Callable[[str], object] | None = None,
) -> Generated:  # fmt: skip
    """Continue prompts with OUT.

    The engine runs if the machine has a GPU, else the ONNX file runs in ONNX Runtime. The command prints the name of the
    runner on stderr, and the text on stdout while it is generated. Several prompts form one batch; the command reads the
    PROMPT - from standard input. The sizes of the files
    that run are compared with the manifest first; `check` compares every file with its sha256.

    Raises UsageError for an invalid setting, and PatchCompileError with the reason if this machine cannot run anything in
    OUT. `say` is called once before generation, with a description of the runner, and `show` with the text of the first
    prompt, piece by piece. `open_generator` keeps the model loaded for several calls.
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
            check=check,
            chat=chat,
            new_tokens=new_tokens,
            stop=stop,
            sampling={name: given[name] for name in _SAMPLING if name in given},
            say=say,
            show=show,
        )
    )
