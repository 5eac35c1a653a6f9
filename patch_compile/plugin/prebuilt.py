"""Finds the compiled plugin that the package patch-compile-plugin brings, for machines without a compiler.

A library is a program, so it is run only if this release was made with it: a release of patch-compile holds the sha256 of
each library (`payloads.json`), which `make wheels` writes. A checkout has no such file and takes no library.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from masklearn.base.safe_read import read_json
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.plugin.targets import this_machine

DISTRIBUTION = "patch-compile-plugin"
PACKAGE = "patch_compile_plugin"
LIBRARY_NAME = "libpatch_linear.so"
PAYLOADS = Path(__file__).with_name("payloads.json")  # sha256 by machine and backend


def prebuilt_library(backend: str) -> Path | None:
    """Returns the library of the installed package for a backend; None if there is none or it differs from the release's
    library."""
    library = _installed(backend)
    pinned = _pinned().get(backend)
    if library is None or pinned is None or _digest(library, library.stat().st_mtime_ns) != pinned:
        return None
    return library


def prebuilt_plugins() -> Iterator[Path]:
    """Yield the libraries of the installed package that this release was made with."""
    yield from filter(None, map(prebuilt_library, _pinned()))


def why_no_prebuilt(backend: str) -> str:
    """Returns the reason, as a clause, why an installed library for a backend is not taken; empty if there is no reason."""
    if (library := _installed(backend)) is None or prebuilt_library(backend):
        return ""
    if backend not in _pinned():
        return f"this patch-compile was not released together with {DISTRIBUTION}, and names no sha256 of its library"
    return f"{library} is not the library that this release of patch-compile was made with: its sha256 is another one"


def _installed(backend: str) -> Path | None:
    """Returns the library without looking into it. The package's own code is not run."""
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        library = Path(folder) / backend / LIBRARY_NAME
        if library.is_file():
            return library
    return None


def _pinned() -> dict[str, str]:
    digests: dict[str, dict[str, str]] = read_json(PAYLOADS) if PAYLOADS.is_file() else {}
    return digests.get(this_machine(), {})


@lru_cache(maxsize=4)
def _digest(library: Path, _changed: int) -> str:
    """Returns the sha256 of a library. _changed: its time of change, so that a replaced library is read again."""
    return sha256_of(library)
