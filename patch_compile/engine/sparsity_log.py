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
from dataclasses import dataclass

__all__ = ["NO_TACTICS", "SparseTactics", "is_about_sparsity", "sparse_tactics"]

NO_TACTICS = (
    "TensorRT-RTX has no 2:4 tactics of its own: the {parts} 2:4 products of split linears run densely; only --lowering "
    "plugin is sparse there"
)

_PREFIX = "(Sparsity)"
_COUNTED = re.compile(r"\(Sparsity\) (Found|Chose) (\d+) layer\(s\)")
_LISTED = re.compile(
    r"\(Sparsity\) (Layers eligible for sparse math|TRT inference plan picked sparse implementation for layers):(.*)",
    re.DOTALL,
)
_ELIGIBLE = ("Found", "Layers eligible for sparse math")


@dataclass(frozen=True)
class SparseTactics:
    """Number of layers with 2:4 weights, and of those that run with a 2:4 tactic; None if TensorRT logged no number."""

    eligible: int | None
    chosen: int | None

    def in_words(self, parts: int) -> str:
        """Returns a sentence for the report. parts: number of 2:4 products of split linears in the graph."""
        if self.eligible is None or self.chosen is None:
            return f"TensorRT logged nothing about 2:4 tactics; whether the {parts} 2:4 products run 2:4 is not known"
        if self.eligible == 0:
            return f"TensorRT found no weight 2:4, so the {parts} 2:4 products of the graph run densely"
        if self.chosen == 0:
            return (
                f"TensorRT chose no 2:4 tactic for any of {self.eligible} eligible layers: it timed the dense ones as "
                "faster, so split brings no speed here; --lowering plugin is the other way"
            )
        return f"TensorRT chose 2:4 tactics for {self.chosen} of {self.eligible} eligible layers"


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
    return SparseTactics(counts.get(True), counts.get(False))
