"""Notices that a model or text was changed while it was built from, so that no report describes a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source

__all__ = ["FilesAsFound", "files_of"]

_State = tuple[int, int, int] | None


def files_of(source: Source, recipe: Recipe) -> tuple[Path, ...]:
    """Returns the files that a build reads more than once: those of the model, of given masks and of texts."""
    named = [Path(name) for name in (recipe.mask, recipe.calib, recipe.eval_text) if name is not None]
    return (*source.files, *(path for path in named if path.is_file()))


@dataclass(frozen=True)
class FilesAsFound:
    """Size, time of change and inode of files at one moment. A file that is missing has None."""

    states: Mapping[Path, _State]

    @classmethod
    def of(cls, files: Iterable[Path]) -> FilesAsFound:
        """Look at the files now."""
        return cls({path: _state(path) for path in files})

    def check(self) -> None:
        """Raise PatchCompileError if a file is no longer as it was found."""
        for path, found in self.states.items():
            if _state(path) != found:
                raise PatchCompileError(
                    f"{path} was changed while it was being built from",
                    "A result made of its old and its new content would be neither.",
                    "Start the build again when the file is complete.",
                )


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
