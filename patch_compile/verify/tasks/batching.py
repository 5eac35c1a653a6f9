"""How many texts are scored at once: a model's logits, of every position of every text, are what fills the memory."""

from __future__ import annotations

__all__ = ["rows_at_once"]

_LOGITS = 1 << 26  # 256 MiB in fp32, and about as much again for what is made of them
# On two cores SmolLM2-135M takes 10 s of CPU time for 16 texts of 25 tokens and 6 s for 4 (torch 2.13, fp32).
_MOST = 16


def rows_at_once(length: int, vocabulary: int) -> int:
    """Texts of a batch whose longest has so many tokens."""
    return min(max(_LOGITS // (length * vocabulary), 1), _MOST)
