"""`patch-compile plugin`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.build_plugin as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["plugin"]


@command(api.build_plugin, summary="Build the TensorRT plugin that runs PatchLinear.", name="plugin")
@AS_JSON
def plugin(as_json: bool, **given: Any) -> None:
    """Build the TensorRT plugin that runs PatchLinear, and list the tools that built it."""
    print_result(api.build_plugin(**given), as_json=as_json)
