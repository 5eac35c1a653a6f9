"""`patch-compile plan`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.plan as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["plan"]


@command(
    api.plan,
    summary="Predict how `build` would compile each linear.",
    basic=("ratio", "mask", "speedup", "budget_ms", "target", "weights", "kinds", "lowering", "as_json"),
)
@AS_JSON
def plan(as_json: bool, **given: Any) -> None:
    """Predict how `build` would compile each linear of MODEL_DIR, and its speed.

    No weight is read: config.json alone will do.

    Without --mask the plan assumes that each linear has the ratio of --ratio, or the ratio that reaches --speedup or
    --budget-ms.
    """
    print_result(api.plan(**given), as_json=as_json)
