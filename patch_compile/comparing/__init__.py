"""`patch-compile compare`: builds of one model side by side, and which of them no other beats."""

from patch_compile.comparing.axis import Against
from patch_compile.comparing.compare import compare

__all__ = ["Against", "compare"]
