"""Keeps the reading of a folder that somebody else made inside it.

A link in such a folder may point to any file of this machine, whose bytes would then be copied into a build. A hub cache
consists of links too: `models--X/snapshots/REVISION/file` points to `models--X/blobs/SHA`.
"""

from __future__ import annotations

import os
from pathlib import Path

from masklearn.base.errors import MaskLearnError

__all__ = ["check_link", "check_links", "leads_out"]


def leads_out(folder: Path, file: Path) -> str:
    """Returns where a path below a folder leads if that is outside it, else "".

    The blobs of the hub cache that the folder lies in count as inside.
    """
    try:
        home, target = folder.resolve(), file.resolve()
        target.stat()
    except FileNotFoundError:
        pass  # a link to nothing
    except (OSError, RuntimeError) as error:  # a loop of links
        return str(error)
    blobs = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"]
    return "" if any(target.is_relative_to(inside) for inside in (home, *blobs[:1])) else str(target)


def check_links(folder: Path) -> None:
    """Raises MaskLearnError for a link in a folder, or in its sub-folders, that leads out of it or in a circle.

    Hidden sub-folders, such as .git and .cache, are not read and not checked.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *files):
            file = Path(place, name)
            if file.is_symlink():
                check_link(folder, file)


def check_link(folder: Path, file: Path) -> None:
    """Raises MaskLearnError for a link below a folder that leads out of it or in a circle."""
    if target := leads_out(folder, file):
        raise MaskLearnError(
            f"{file} is a link out of its folder",
            f"It leads to {target}, and a model's folder is read, and copied into a build, by itself.",
            "Put a copy of the file there, or give the folder in which the files lie.",
        )
    # Folders that lie in sub-folders are copied with these, and a link to a folder could lead back.
    if file.is_dir() and (file.parent != folder or file.resolve() == folder.resolve()):
        raise MaskLearnError(
            f"{file} is a link to a folder",
            f"It leads to {file.readlink()}, and sub-folders of a model are copied as they are.",
            "Put a copy of the folder there, or remove the link.",
        )
