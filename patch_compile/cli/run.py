"""`patch-compile run`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.run as api
from masklearn.base.printable import one_line, printable
from patch_compile.cli.command import AS_JSON, command

__all__ = ["run"]


@command(api.run, summary="Continue prompts with OUT.")
@AS_JSON
def run(as_json: bool, **given: Any) -> None:
    """Continue prompts with OUT: its engine on a GPU, else its ONNX file in ONNX Runtime.

    The name of the runner goes to stderr, and the text to stdout while it is generated. Several prompts form one batch.
    """
    from patch_compile.report.inspect import times_line

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
