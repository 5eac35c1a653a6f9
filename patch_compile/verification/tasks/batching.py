"""Chooses the number of texts to score at once. Memory is filled by the logits of all positions of all texts."""

from __future__ import annotations

__all__ = ["rows_at_once"]

_LOGITS = 1 << 26  # 256 MiB in fp32, and about the same again for values computed from them
# On two cores SmolLM2-135M takes 10 s of CPU time for 16 texts of 25 tokens and 6 s for 4 (torch 2.13, fp32).
_MOST = 16


def rows_at_once(length: int, vocabulary: int) -> int:
    """Returns the number of texts for a batch whose longest text has `length` tokens."""
    return min(max(_LOGITS // (length * vocabulary), 1), _MOST)
