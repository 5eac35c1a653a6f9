"""The commands on what a build wrote: run it, prove it, time it, compare it with others. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patch_compile import cli_options as shared

__all__ = ["COMMANDS"]


@click.command()
@click.argument("path", type=shared.PATH, metavar="OUT")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT…")
@click.option(
    "--runner",
    type=click.Choice(["engine", "onnx"]),
    help="What runs it. [the engine where this machine can]",
)
@click.option(
    "--plugin", type=shared.PATH, metavar="FILE", help="Plugin to take in place of the engine's own."
)
@click.option("--tokenizer", type=shared.PATH, metavar="DIR", help="Folder with the tokenizer. [OUT/model]")
@click.option("--chat", is_flag=True, help="A prompt is what a user says, by the model's chat template.")
@click.option("--new-tokens", type=click.IntRange(1), default=128, help="Most tokens to generate. [128]")
@click.option(
    "--temperature", type=float, help="0 takes the most likely token. [as generation_config.json says, or 0]"
)
@click.option("--top-k", type=int, help="Draw from so many of the most likely tokens.")
@click.option(
    "--top-p", type=float, help="Draw from the most likely tokens that hold this much of the probability."
)
@click.option("--repetition-penalty", type=float, help="Above 1 makes tokens that came before less likely.")
@click.option("--seed", type=int, help="Seed of the draws. [a new one each time]")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print texts, tokens and times as JSON.")
def run(
    path: Path,
    prompts: tuple[str, ...],
    runner: str | None,
    plugin: Path | None,
    tokenizer: Path | None,
    chat: bool,
    new_tokens: int,
    stop: tuple[str, ...],
    as_json: bool,
    **sampling: Any,
) -> None:
    """Continue prompts with what `build` wrote to OUT: its engine on a GPU, else its ONNX file on ONNX Runtime.

    Which of them it is goes to stderr, the text to stdout, as it comes. Several prompts are one batch.
    """
    from patch_compile.report.generated import print_generated
    from patch_compile.running import run as generate

    alone = len(prompts) == 1 and not as_json
    generated = generate(
        path,
        prompts,
        say=lambda about: click.echo(f"runs on {about}", err=True),
        show=(lambda text: click.echo(text, nl=False)) if alone else None,
        runner=runner,
        plugin=plugin,
        tokenizer=tokenizer,
        chat=chat,
        new_tokens=new_tokens,
        stop=stop,
        sampling=shared.given(sampling),
    )
    print_generated(generated, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (run,)
