"""`patch-compile bench`."""

from __future__ import annotations

from typing import Any

import patch_compile.api.bench as api
from patch_compile.cli.command import AS_JSON, command, print_result

__all__ = ["bench"]


@command(api.bench, summary="Time OUT's model beside the dense and a uniform 2:4 one.")
@AS_JSON
def bench(as_json: bool, **given: Any) -> None:
    """Time prompts and decode steps of OUT's model, of the dense model and of a uniform 2:4 model, in alternation.

    A GPU runs their engines, and its clocks are reported with the times. Without a GPU their ONNX files run in ONNX
    Runtime on the CPU; such times say nothing about a GPU. Times are written to OUT/bench/bench.json and shown in
    OUT/report.html.
    """
    print_result(api.bench(**given), as_json=as_json)
