"""`patch-compile compile`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.compile as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["compile"]


def _print_passes(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    """List the passes, and exit. MODEL_DIR is not required for this."""
    if not given or ctx.resilient_parsing:
        return
    from patch_compile.passes import describe_passes

    for number, (name, what) in enumerate(describe_passes(), start=1):
        click.echo(f"{number:2} {name}: {what}")
    ctx.exit()


@command(
    api.compile,
    summary="Write hybrid ONNX under given masks, without an engine.",
    basic=("out", "mask", "graph", "target", "lowering", "dtype", "resume", "force"),
)
@click.option(
    "--list-passes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_passes,
    help="List the passes in their order, and exit.",
)
@AS_JSON
def compile(as_json: bool, **given: Any) -> None:
    """Write MODEL_DIR as hybrid ONNX under given masks, without an engine or a proof.

    ONNX Runtime can run the result. `build --mask FILE` also makes an engine and measures the loss of quality. --include
    and --exclude must be the same as when the masks were learned.

    --graph takes what Edge-LLM, optimum, GenAI's model builder or torch.onnx exported. Its linears are found by their
    numbers, one by one or joined in one product. Its other nodes, its inputs and its outputs stay as they are.
    """
    print_result(api.compile(**given), as_json=as_json)
