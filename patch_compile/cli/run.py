"""`patch-compile run`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.run as api
from masklearn.base.printable import one_line, printable
from patch_compile.cli.command import AS_JSON, Option, command
from patch_compile.cli.options import OPTIONS

__all__ = ["run"]

_OWN = {
    "plugin": Option(
        "Plugin library, for an engine that does not contain it.", "FILE", "the one compiled here"
    ),
    "tokenizer": Option("Folder of the tokenizer.", "DIR", "OUT/model"),
    "chat": Option("Treat each prompt as a user's message, in the model's chat template."),
    "new_tokens": Option("Largest number of tokens to generate."),
    "temperature": Option(
        "Randomness of the draws; 0 takes the most likely token.",
        unset="as generation_config.json says, or 0",
    ),
    "top_k": Option("Draw from this many of the most likely tokens."),
    "top_p": Option("Draw from the most likely tokens that together have this probability."),
    "repetition_penalty": Option("Above 1 makes tokens that have occurred less likely."),
    "seed": Option("Seed of the draws.", unset="a new one each time"),
    "stop": Option("End before this text; may be repeated.", "TEXT"),
}


@command(
    api.run,
    OPTIONS | _OWN,
    {"path": "OUT", "prompts": "PROMPT…"},
    python_only=("say", "show"),
    summary="Continue prompts with OUT.",
)
@AS_JSON
def run(as_json: bool, **given: Any) -> None:
    """Continue prompts with OUT: its engine on a GPU, else its ONNX file in ONNX Runtime.

    The name of the runner goes to stderr, and the text to stdout while it is generated. Several prompts form one batch.
    """
    from patch_compile.report.terminal.run import times_line

    alone = len(given["prompts"]) == 1 and not as_json
    generated = api.run(
        **given,
        say=lambda about: click.echo(one_line(f"runs on {about}"), err=True),
        show=(lambda text: click.echo(printable(text), nl=False)) if alone else None,
    )
    if as_json:
        click.echo(generated.json())
        return
    pairs = zip(given["prompts"], generated.texts, strict=True)
    click.echo("" if alone else "\n\n".join(printable(f"{prompt}\n→ {text}") for prompt, text in pairs))
    click.echo(times_line(generated.report), err=True)
