"""`patch-compile compare`: sets builds of one model side by side, and finds those that no other build beats."""

from patch_compile.compare.compare import compare
from patch_compile.out.compare import Against

__all__ = ["Against", "compare"]
