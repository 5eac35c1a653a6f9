"""What every importer gives: which linears a source masks, and their masks, read one at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import Coverage
from masklearn.errors import PatchCompileError

__all__ = ["IMPORTERS", "Format", "Importer", "Published", "check_known", "first_few", "register"]


class Format(StrEnum):
    """How masks are published; the key of the registry of importers."""

    MASKLLM = "maskllm"
    PATCH = "patch"
    CHECKPOINT = "checkpoint"
    COMPRESSED_TENSORS = "compressed-tensors"


@dataclass(frozen=True, eq=False)
class Published:
    """Masks that are still in their source.

    names: the covered linears that it masks, the others are dense; read: name to bool `[N, K]`, True = kept (not
    zero); sha256: of the source's bytes, when called.
    uniform: of these linears the source says that every group of 4 is 2:4; of the others, that tiles may be.
    in_weights: the zeros are those of weights in the source, so a zero that no 2:4 tile takes in is not lost.
    smallest: side of the smallest tile that may be found; below 16, zeros that are not there by design can make
    tiles look 2:4.
    ignored: linears of the model that it masks and that are not covered; about: what else it says, for the record.
    """

    names: tuple[str, ...]
    read: Callable[[str], NDArray[np.bool_]]
    sha256: Callable[[], str]
    uniform: frozenset[str] = frozenset()
    in_weights: bool = False
    smallest: int = 16
    ignored: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


# (source, the dense model, what of it is covered) to its masks. PatchCompileError when the source is damaged, of an
# unknown kind, or of another model.
Importer = Callable[[Path, Checkpoint, Coverage], Published]

IMPORTERS: dict[Format, Importer] = {}


def register(kind: Format) -> Callable[[Importer], Importer]:
    """Decorator: enter an importer under its format."""

    def enter(importer: Importer) -> Importer:
        IMPORTERS[kind] = importer
        return importer

    return enter


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
