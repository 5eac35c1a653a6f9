"""Tells what a build wrote in its folder from links, which a build never makes, and from files of the user."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from masklearn.base.durable import is_temporary
from patch_compile.artifacts.stage_files import remove
from patch_compile.errors import PatchCompileError

__all__ = ["check_links", "check_own", "foreign_files", "links_in", "remove_temporaries"]

_NAMED = 5  # files that an error names


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
    """Raise PatchCompileError if the folder holds a symbolic link: what is written through it would land elsewhere."""
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
