"""What an importer is: it knows its format when it sees it, and gives the masks of a source one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from masklearn.errors import PatchCompileError
from masklearn.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from masklearn.checkpoint.checkpoint import Checkpoint
    from masklearn.checkpoint.coverage import Coverage

__all__ = ["IMPORTERS", "Importer", "Published", "check_known", "first_few"]


@dataclass(frozen=True, eq=False)
class Published:
    """Masks that are still in their source.

    names: the covered linears that it masks, the others are dense; read: name to bool `[N, K]`, True = kept (not
    zero); sha256: of the source's bytes, when called.
    uniform: of these linears the source says that every group of 4 is 2:4; of the others, that tiles may be.
    smallest: side of the smallest tile that may be found; below 16, zeros that are not there by design can make
    tiles look 2:4.
    ignored: linears of the model that it masks and that are not covered; about: what else it says, for the record.
    """

    names: tuple[str, ...]
    read: Callable[[str], NDArray[np.bool_]]
    sha256: Callable[[], str]
    uniform: frozenset[str] = frozenset()
    smallest: int = 16
    ignored: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


class Importer(ABC):
    """A format of published masks.

    name: as `--format` takes it; summary: one line for a list; in_weights: the zeros are those of weights in the source,
    so they are compiled with these weights, and a zero that no 2:4 tile takes in is not lost; general: the format has no
    mark of its own, so a source is of it only where no other format claims it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    in_weights: ClassVar[bool] = False
    general: ClassVar[bool] = False

    @abstractmethod
    def detect(self, source: Path) -> str | None:
        """Say what shows that a file or folder has this format, None where nothing does.

        PatchCompileError when it can't be read.
        """

    @abstractmethod
    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        """The masks of a source for a dense model and what is covered of it.

        PatchCompileError when the source is damaged, of an unknown kind, or of another model.
        """


IMPORTERS: Registry[Importer] = Registry("masklearn.importers.formats")


def check_known(
    source: Path, named: Iterable[str], checkpoint: Checkpoint, coverage: Coverage
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sort the linears that a source masks into covered ones, in the order of the model, and others of the model.

    PatchCompileError when one is not in the model at all, or none is covered: the masks are another model's.
    """
    named = set(named)
    unknown = sorted(name for name in named - set(coverage.linears) if f"{name}.weight" not in checkpoint)
    covered = tuple(name for name in coverage.linears if name in named)
    if unknown or not covered:
        raise PatchCompileError(
            f"{source} holds masks of another model than {checkpoint.path}",
            f"It masks {first_few(unknown)}, which the model does not have."
            if unknown
            else f"It masks none of the covered linears ({first_few(list(coverage.linears))}).",
            "Give the model that they were made for, and check --include and --exclude.",
        )
    return covered, tuple(sorted(named - set(covered)))


def first_few(names: Iterable[str], count: int = 3) -> str:
    """Some names and how many more."""
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more
