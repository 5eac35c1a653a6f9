"""Reads from the log of a build with full TensorRT which layers got its own 2:4 tactics.

`SPARSE_WEIGHTS` permits them; TensorRT times both and keeps the faster, so a build that succeeds proves nothing. It logs,
once for each selection of tactics, the last of them for the engine that is written:

    (Sparsity) Found 12 layer(s) eligible to use sparse tactics: a, b, …             10, with the names or without
    (Sparsity) Chose 3 layer(s) using sparse tactics: a, …
    (Sparsity) Layers eligible for sparse math: a, b, …                              8
    (Sparsity) TRT inference plan picked sparse implementation for layers: a, …

(NVIDIA/TensorRT issues 1403, 2169, 4056 show those of 8; its Model Optimizer's example of 2:4 INT8 those of 10.14.)
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
    """Layers whose weights TensorRT found to be 2:4, and those that run 2:4; None where it logged neither."""

    eligible: int | None
    chosen: int | None

    def in_words(self, parts: int) -> str:
        """What that means; parts: 2:4 products of splits in the graph."""
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
    """Whether a message of the log is one of those that `sparse_tactics` reads."""
    return _PREFIX in message


def sparse_tactics(messages: Iterable[str]) -> SparseTactics:
    """The last counts that were logged; of earlier releases, which name the layers only, the number of names."""
    counts: dict[bool, int] = {}
    for message in messages:
        counted, listed = _COUNTED.search(message), _LISTED.search(message)
        if counted:
            counts[counted[1] in _ELIGIBLE] = int(counted[2])
        elif listed:
            counts[listed[1] in _ELIGIBLE] = len([name for name in listed[2].split(",") if name.strip()])
    return SparseTactics(counts.get(True), counts.get(False))
