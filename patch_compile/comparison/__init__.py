"""`patch-compile compare`: sets builds of one model side by side, and finds those that no other build beats."""

from patch_compile.artifacts.compare import Against
from patch_compile.comparison.compare import compare

__all__ = ["Against", "compare"]
