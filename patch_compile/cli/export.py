"""`patch-compile export`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.export as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["export"]


@command(api.export, summary="Write the pruned model of OUT for other programs.")
@AS_JSON
def export(as_json: bool, **given: Any) -> None:
    """Write the pruned model of OUT, the folder of `build` or `learn`, for other programs.

    compressed-tensors packs int8 and int4 weights into OUT/compressed-tensors, which transformers reads. Pruned weights are
    zeros in it, because the format has no sparse form. Every weight is read back and compared with OUT/model.

    edgellm runs the exporter of TensorRT Edge-LLM on OUT/model, puts PatchLinear into its graph, and writes OUT/edgellm,
    from which Edge-LLM builds its engine.
    """
    print_result(api.export(**given), as_json=as_json)
