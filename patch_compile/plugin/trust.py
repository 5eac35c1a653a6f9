"""Tells compiled code that this installation made from code that came with somebody's files.

A plugin library, and an engine with a plugin inside, are programs: loading them runs their maker's code. What this user's
installation compiled itself is known by its content. Libraries lie in the cache of `build_plugin`, or in the package
patch-compile-plugin, whose libraries' SHA-256 are in the release; of engines with a plugin inside, the cache keeps the
SHA-256.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.cache_folder import cache_folder
from patch_compile.plugin.build import cached_plugins
from patch_compile.plugin.identity import identity_in
from patch_compile.plugin.kernels import KERNELS
from patch_compile.plugin.prebuilt import prebuilt_plugins
from patch_compile.plugin.targets import runs_on, this_machine


def library_made_here(library: Path) -> Path | None:
    """Returns the known library with the same content, None if this installation has no such library."""
    size = library.stat().st_size
    same = [known for known in _known() if known.stat().st_size == size]
    content = sha256_of(library) if same else ""
    return next((known for known in same if sha256_of(known) == content), None)


def matching_library(
    backend: str, version: int | None, sms: Collection[int], kernels: Collection[str] = KERNELS
) -> Path | None:
    """Returns the library for a backend that this installation received or used last; None if there is none.

    version: of the plugin, None for any; sms: compute capabilities, times ten, of GPUs that run the library; kernels:
    groups that it has at least, see `plugin.kernels`. One for another kind of machine is never taken.
    """
    libraries = [path for path in _known() if _matches(path, backend, version, sms, kernels)]
    return max(libraries, key=lambda path: path.stat().st_mtime, default=None)


def _known() -> list[Path]:
    return [*cached_plugins()[1], *prebuilt_plugins()]


def remember_engine(engine: Path) -> None:
    """Keep the SHA-256 of an engine that this installation built with a plugin inside."""
    mark = _mark(engine)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def engine_made_here(engine: Path) -> bool:
    return _mark(engine).is_file()


def _mark(engine: Path) -> Path:
    return cache_folder("engines") / sha256_of(engine)


def _matches(
    path: Path, backend: str, version: int | None, sms: Collection[int], kernels: Collection[str]
) -> bool:
    identity = identity_in(path)
    if identity is None:
        return False
    runs = identity.machine == this_machine() and all(runs_on(sm, identity.archs) for sm in sms)
    runs &= {*kernels} <= {*identity.kernels}
    return identity.backend == backend and version in (None, identity.version) and runs
