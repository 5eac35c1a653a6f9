"""Finds, checks, links and removes the files that the stages of a build write, and tells them from links, which a build
never makes, and from files of the user."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from masklearn.base.durable import is_temporary
from masklearn.base.safe_read import sha256_of as sha256_of
from patch_compile.artifacts.state import StageRecord
from patch_compile.errors import PatchCompileError

_NAMED = 5  # files that an error names


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


def check_own(folder: Path, own: Collection[str], *, done: str, inside: str = "") -> None:
    """Raise PatchCompileError if the folder holds a link, or a file that patch-compile did not write.

    own: paths in the folder of what patch-compile wrote, files or whole folders; done: what would happen to the folder, as
    a clause; inside: the only folder in it to look for such files.
    """
    check_links(folder)
    if foreign := [
        path for path in foreign_files(folder, own) if inside in ("", PurePosixPath(path).parts[0])
    ]:
        raise PatchCompileError(
            f"{folder} holds files that patch-compile did not write: {_listed(foreign)}",
            f"They would be lost: {done}.",
            "Move them away, or choose another folder.",
        )


def check_links(folder: Path) -> None:
    """Raise PatchCompileError if the folder holds a symbolic link: files written through it would land elsewhere."""
    if links := list(links_in(folder)):
        raise PatchCompileError(
            f"{folder} holds links: {_listed(links)}",
            "A build makes no links, and a file that is written through a link lands elsewhere.",
            "Remove the links, or put what they point to in their place.",
        )


def links_in(folder: Path) -> Iterator[str]:
    """Yield the paths in the folder of all symbolic links."""
    return (path for path, mode in _entries(folder) if stat.S_ISLNK(mode))


def foreign_files(folder: Path, own: Collection[str]) -> list[str]:
    """Returns the paths in the folder of files that neither are in `own` nor lie in a folder of `own`.

    Temporary files and folders of a run that was killed count as own.
    """
    return sorted(path for path, mode in _entries(folder) if not (stat.S_ISDIR(mode) or _is_own(path, own)))


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files and folders of runs that were killed."""
    for root, folders, files in os.walk(folder):
        for name in filter(is_temporary, (*folders, *files)):
            remove(Path(root) / name)
        folders[:] = [name for name in folders if not is_temporary(name)]


def _is_own(path: str, own: Collection[str]) -> bool:
    parts = PurePosixPath(path)
    return any(str(part) in own or is_temporary(part.name) for part in (parts, *parts.parents))


def _entries(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield path and mode of all that is in the folder. Folders are opened by descriptor, and no link is followed."""
    top = folder.resolve()
    for root, folders, files, descriptor in os.fwalk(top, onerror=_raise):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):  # another process removed it meanwhile
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                yield str((Path(root) / name).relative_to(top)), mode


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
