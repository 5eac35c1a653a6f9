"""`patch-compile plugin`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.build_plugin as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result

__all__ = ["plugin"]

_OWN = {
    "backend": Option("TensorRT to build the plugin for.", unset="the one this machine has"),
    "force": Option("Build it even if the cache has it."),
}


@command(api.build_plugin, _OWN, name="plugin", summary="Build the TensorRT plugin that runs PatchLinear.")
@AS_JSON
def plugin(as_json: bool, **given: Any) -> None:
    """Build the TensorRT plugin that runs PatchLinear, and list the tools that built it."""
    print_result(api.build_plugin(**given), as_json=as_json)
