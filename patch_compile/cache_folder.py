"""Folder for results that are kept for later runs of the same user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Returns `~/.cache/patch-compile/NAME`, or the same below XDG_CACHE_HOME. The folder may not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".cache") / "patch-compile" / name
