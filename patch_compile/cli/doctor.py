"""`patch-compile doctor`."""

from __future__ import annotations

import patch_compile.api.doctor as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["doctor"]


@command(api.doctor, summary="Report what this machine can do and what it lacks.")
@AS_JSON
def doctor(as_json: bool) -> None:
    """Report what this machine can do, and how to fix what it lacks."""
    print_result(api.doctor(), as_json=as_json)
