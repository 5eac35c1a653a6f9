"""Finds, checks, links and removes the files that the stages of a build write."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from patch_compile.artifacts.state import StageRecord

__all__ = ["files_under", "intact", "link", "remove", "sha256_of", "sweep"]


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(root: Path, records: dict[str, StageRecord], keep: tuple[str, ...]) -> None:
    """Remove everything that no finished stage has written, such as half-written files of a killed run.

    keep: names in `root` that stay.
    """
    files = {root / name for record in records.values() for name in record.files}
    folders = {parent for file in files for parent in file.parents}
    for top in [path for path in root.iterdir() if path.name not in keep]:
        inside = sorted(top.rglob("*"), reverse=True) if top in folders else []
        for path in [*inside, top]:
            if path not in files and path not in folders and os.path.lexists(path):
                remove(path)


def intact(home: Path, record: StageRecord) -> bool:
    """Returns True if every file of the stage is in `home` as the stage wrote it."""
    return all((home / n).is_file() and sha256_of(home / n) == digest for n, digest in record.files.items())


def files_under(root: Path, outputs: list[str]) -> Iterator[str]:
    """Yield the paths in `root` of the files that outputs, which are files or folders, consist of."""
    for name in outputs:
        path = root / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield str(file.relative_to(root))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system has no links. Finished files are never written to again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
