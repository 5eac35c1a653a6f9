"""`patch-compile plan`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.plan as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result
from patch_compile.cli.options import OPTIONS

__all__ = ["plan"]

_OWN = {
    "mask": Option("Masks to plan for.", "FILE"),
    "target": Option(
        "GPU to predict for: a card or an architecture, such as a6000 or sm86.",
        "GPU[,GPU…]",
        "local GPU, or sm86",
    ),
}


@command(
    api.plan, OPTIONS | _OWN, {"model": "MODEL_DIR"}, summary="Predict how `build` would compile each linear."
)
@AS_JSON
def plan(as_json: bool, **given: Any) -> None:
    """Predict how `build` would compile each linear of MODEL_DIR, and its speed.

    No weight is read: config.json alone will do.

    Without --mask the plan assumes that each linear has the ratio of --ratio, or the ratio that reaches --speedup or
    --budget-ms.
    """
    print_result(api.plan(**given), as_json=as_json)
