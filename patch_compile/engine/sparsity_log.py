"""Reads the log of a full TensorRT build to find the layers that run with TensorRT's own 2:4 tactics.

The flag `SPARSE_WEIGHTS` permits 2:4 tactics. TensorRT times them against the dense ones and keeps the faster, so a
successful build does not show that any was chosen. TensorRT logs each selection of tactics; the last one is that of the
written engine:

    (Sparsity) Found 12 layer(s) eligible to use sparse tactics: a, b, …             version 10, with or without names
    (Sparsity) Chose 3 layer(s) using sparse tactics: a, …
    (Sparsity) Layers eligible for sparse math: a, b, …                              version 8
    (Sparsity) TRT inference plan picked sparse implementation for layers: a, …

Sources: NVIDIA/TensorRT issues 1403, 2169 and 4056 (version 8), and Model Optimizer's 2:4 INT8 example (10.14).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from patch_compile.artifacts.engine import SparseTactics

__all__ = ["is_about_sparsity", "sparse_tactics"]

_PREFIX = "(Sparsity)"
_COUNTED = re.compile(r"\(Sparsity\) (Found|Chose) (\d+) layer\(s\)")
_LISTED = re.compile(
    r"\(Sparsity\) (Layers eligible for sparse math|TRT inference plan picked sparse implementation for layers):(.*)",
    re.DOTALL,
)
_ELIGIBLE = ("Found", "Layers eligible for sparse math")


def is_about_sparsity(message: str) -> bool:
    """True for a log message that `sparse_tactics` reads."""
    return _PREFIX in message


def sparse_tactics(messages: Iterable[str]) -> SparseTactics:
    """Returns the last counts in the log. Earlier releases log the names of the layers only, which are counted."""
    counts: dict[bool, int] = {}
    for message in messages:
        counted, listed = _COUNTED.search(message), _LISTED.search(message)
        if counted:
            counts[counted[1] in _ELIGIBLE] = int(counted[2])
        elif listed:
            counts[listed[1] in _ELIGIBLE] = len([name for name in listed[2].split(",") if name.strip()])
    return SparseTactics(eligible=counts.get(True), chosen=counts.get(False))
