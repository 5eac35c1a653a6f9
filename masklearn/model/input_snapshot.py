"""Notices that files were changed while they were being read, so that no result describes a mixture."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from masklearn.base.errors import MaskLearnError

__all__ = ["InputSnapshot"]

_State = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class InputSnapshot:
    """The state of files at one moment: size, both times of change, and inode; None for a file that is missing.

    find: lists the files; it is called again by each check, to notice files that were added.
    """

    find: Callable[[], Iterable[Path]]
    states: Mapping[Path, _State]

    @classmethod
    def of(cls, find: Callable[[], Iterable[Path]]) -> "InputSnapshot":
        """Look at the files now. A file's state is taken before `find` looks for the next file."""
        return cls(find, {path: _state(path) for path in find()})

    def check(self) -> None:
        """Raise MaskLearnError if a file is no longer as it was found, or was added."""
        for path, found in self.states.items():
            if _state(path) != found:
                raise _changed(path, "changed")
        for path in self.find():
            if path not in self.states:
                raise _changed(path, "added")


def _changed(path: Path, how: str) -> MaskLearnError:
    return MaskLearnError(
        f"{path} was {how} while it was being read",
        "A result made of its old and its new content would be neither.",
        "Start again when the file is complete.",
    )


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError:
        return None
    # A program can put st_mtime back, but not st_ctime.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
