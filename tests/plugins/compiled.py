"""Compiles for the tests, once: results are kept, and while one process of pytest-xdist compiles, the others wait."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from masklearn.base.durable import whole_file
from patch_compile.plugin.compiling import locked, plugin_cache
from patch_compile.plugin.toolchain import fetch_headers, find_headers


def tensorrt_headers() -> Path:
    """Returns the folder of TensorRT's headers that the plugin is compiled with; they are downloaded once."""
    cache = plugin_cache()
    cache.mkdir(parents=True, exist_ok=True)
    return (find_headers("tensorrt") or fetch_headers(cache, lambda said: None)).path


def compiled(cache: Path, command: Sequence[str], version: str, sources: Iterable[Path], name: str) -> Path:
    """Run a compiler, or take the result of the same command, version and content of the sources from `cache`.

    name: of the result, with its suffix. Paths in the command are not part of the key.
    """
    about = " ".join(part for part in command if os.sep not in part) + version
    digest = hashlib.sha256(about.encode())
    for source in sorted(sources):
        digest.update(source.name.encode() + source.read_bytes())
    made = cache / f"{Path(name).stem}-{digest.hexdigest()[:20]}{Path(name).suffix}"
    with locked(made.with_suffix(".lock")):
        if not made.exists():
            with whole_file(made) as part:
                subprocess.run([*command, "-o", str(part)], check=True)
    return made
