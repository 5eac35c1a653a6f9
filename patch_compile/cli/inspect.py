"""`patch-compile inspect`."""

from __future__ import annotations

from typing import Any

import click

import patch_compile.api.inspect as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["inspect"]


@command(api.inspect, summary="Identify, describe and check a file or folder.")
@click.option(
    "--all", "every", is_flag=True, help="Print a line for each tensor or linear. [a line for each kind]"
)
@AS_JSON
def inspect(every: bool, as_json: bool, **given: Any) -> None:
    """Identify a file or folder, describe its content and check that it is intact.

    PATH: an engine, an ONNX file, masks or other safetensors, the plugin, a model folder, or OUT. The exit code is 1 if
    it is damaged.
    """
    found = api.inspect(**given)
    print_result(found, as_json=as_json, every=every)
    if found.faults:
        raise click.exceptions.Exit(1)
