"""`patch-compile compare`: sets builds of one model side by side."""

from patch_compile.comparison.compare import compare

__all__ = ["compare"]
