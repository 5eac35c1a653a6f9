"""`patch-compile compare`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.compare as api
from patch_compile.cli.command import AS_JSON, Option, command, print_result

__all__ = ["compare"]

_OWN = {
    "out": Option("File for the curve (FILE.svg), or folder for the curve and the table as JSON.", "FOLDER|FILE",
                  "only print the table", flags=("-o", "--out")),
    "against": Option("Quantity that quality is drawn over. Speed is measured if every OUT was timed on one GPU, else "
                      "predicted.", flags=("--x",)),
    "force": Option("Replace files that exist."),
}  # fmt: skip


@command(
    api.compare, _OWN, {"paths": "OUT…"}, summary="Compare quality, size and speed of builds of one model."
)
@AS_JSON
def compare(as_json: bool, **given: Any) -> None:
    """Compare quality, size and speed of builds of one model. Builds that no other build beats are Pareto points."""
    print_result(api.compare(**given), as_json=as_json)
