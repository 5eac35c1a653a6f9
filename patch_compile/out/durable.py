"""Writes the JSON files of OUT so that they survive a power cut."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masklearn.durable import whole_file

__all__ = ["HALF_WRITTEN", "write_json"]

HALF_WRITTEN = ".tmp"  # suffix of a JSON file that is being written


def write_json(path: Path, value: Mapping[str, Any], *, shared: bool = False) -> None:
    """Write JSON to a file beside `path`, flush it, and rename it to `path` when it is complete.

    shared: True if several processes may write the file at the same time, as in the user's cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In OUT the half-written file has a fixed name. The next run then overwrites what a killed one left, and a folder in
    # which a run was killed before its first file was complete is still known as ours.
    with whole_file(path, None if shared else path.name + HALF_WRITTEN) as beside:
        beside.write_text(json.dumps(value, indent=1, sort_keys=False) + "\n")
