"""Finds the first linear of a hybrid graph whose input or output its 16-bit type does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.graph_inputs import load_graph
from patch_compile.onnx_io.session import open_session, run_session
from patch_compile.packing.function import NAME
from patch_compile.verification.first_difference import with_outputs

__all__ = ["first_overflow"]

_TOGETHER = 16  # tensors in memory


def first_overflow(hybrid: Path, feeds: Sequence[Feed]) -> str | None:
    """Returns "the input of NAME" or "the output of NAME" of the first PatchLinear, in graph order, that has a value there
    that is not finite; None if all are finite on all feeds.

    hybrid: a file that ONNX Runtime can run.
    """
    places: dict[str, str] = {}
    for node in load_graph(hybrid).node:
        if node.op_type == NAME:  # one linear's output may be the next one's input
            places.setdefault(node.input[0], f"the input of {node.name}")
            places.setdefault(node.output[0], f"the output of {node.name}")
    with with_outputs(hybrid, list(places)) as marked:
        session = open_session(marked)
    for feed in feeds:
        for start in range(0, len(places), _TOGETHER):
            names = [*places][start : start + _TOGETHER]
            for name, values in run_session(session, hybrid, feed, names).items():
                if not bool(np.isfinite(values).all()):
                    return places[name]
    return None
