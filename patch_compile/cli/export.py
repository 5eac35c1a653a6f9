"""`patch-compile export`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.export as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result

__all__ = ["export"]

_OWN = {"format": Option("Format of the checkpoint.")}


@command(
    api.export,
    _OWN,
    {"path": "OUT"},
    summary="Write the quantised checkpoint of OUT for other programs.",
)
@AS_JSON
def export(as_json: bool, **given: Any) -> None:
    """Write OUT/model with packed int8 and int4 weights to OUT/compressed-tensors, which transformers reads.

    OUT is that of `build` or `learn`. Pruned weights are zeros in the new folder, because the format has no sparse form.
    Every weight is read back and compared with OUT/model.
    """
    print_result(api.export(**given), as_json=as_json)
