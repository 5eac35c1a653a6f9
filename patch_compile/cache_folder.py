"""Where what a person's machine has found out once is kept for later runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(name: str) -> Path:
    """`~/.cache/patch-compile/NAME`, or under XDG_CACHE_HOME; it need not be there."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "patch-compile" / name
