"""`patch-compile compare`: builds of one model side by side, and which of them no other beats."""

from patch_compile.compare.axis import Against
from patch_compile.compare.compare import compare

__all__ = ["Against", "compare"]
