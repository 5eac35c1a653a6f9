"""`patch-compile compare`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.compare as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["compare"]


@command(api.compare, summary="Compare quality, size and speed of builds of one model.")
@AS_JSON
def compare(as_json: bool, **given: Any) -> None:
    """Compare quality, size and speed of builds of one model. Builds that no other build beats are Pareto points."""
    print_result(api.compare(**given), as_json=as_json)
