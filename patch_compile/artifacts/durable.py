"""Writes the JSON files of OUT so that they survive a power cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masklearn.base.durable import whole_file

__all__ = ["write_json"]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON to a temporary file, flush it, and rename it to `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")
