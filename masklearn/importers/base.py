"""Base class of importers. An importer detects its format, and reads one mask of a source at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from masklearn.base.errors import MaskLearnError
from masklearn.base.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import Coverage
    from masklearn.quant.grid import Grid

_NAMED = 3  # names that a line for the user lists


@dataclass(frozen=True, eq=False)
class Published:
    """Masks that are still in their source.

    names: covered linears that the source masks; all others are dense; read: returns the mask of a linear, bool `[N, K]`,
    True = kept (not zero); sha256: returns the sha256 of the source's bytes.
    uniform: linears of which the source claims that every group of 4 is 2:4; tiles of the others may be dense.
    smallest: side of the smallest tile to look for; below 16, zeros that no method pruned can make tiles look 2:4.
    ignored: linears of the model that the source masks but that are not covered; about: other fields of the record.
    grids: grids of quantised linears of the source, None if the model's weights are compiled and not the source's.
    base_model: hub name of the model that the masks were made for, None if the source names none.
    """

    names: tuple[str, ...]
    read: Callable[[str], NDArray[np.bool_]]
    sha256: Callable[[], str]
    uniform: frozenset[str] = frozenset()
    smallest: int = 16
    ignored: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    grids: Mapping[str, Grid] | None = None
    base_model: str | None = None


class Importer(ABC):
    """A format of published masks.

    name: value of `format`; summary: one line for lists; in_weights: True if the masks are the zeros of weights in the
    source. These weights are then compiled, so zeros outside 2:4 tiles are not lost. general: True if the format has no
    distinctive mark, so that a source has this format only if no other format claims it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    in_weights: ClassVar[bool] = False
    general: ClassVar[bool] = False

    @abstractmethod
    def detect(self, source: Path) -> str | None:
        """Returns the evidence, in words, that a file or folder has this format, or None if there is none.

        Raises MaskLearnError if the source can't be read.
        """

    @abstractmethod
    def open(self, source: Path, checkpoint: Checkpoint, coverage: Coverage) -> Published:
        """Open the masks of a source for the covered linears of a dense model.

        Raises MaskLearnError if the source is damaged, of an unknown kind, or of another model.
        """


IMPORTERS: Registry[Importer] = Registry("masklearn.importers.formats")


def check_known(
    source: Path, named: Iterable[str], checkpoint: Checkpoint, coverage: Coverage
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the linears that a source masks into covered linears, in the order of the model, and others of the model.

    Raises MaskLearnError if a linear is not in the model, or no linear is covered: the masks belong to another model.
    """
    named = set(named)
    unknown = sorted(name for name in named - set(coverage.linears) if f"{name}.weight" not in checkpoint)
    covered = tuple(name for name in coverage.linears if name in named)
    if unknown or not covered:
        raise MaskLearnError(
            f"{source} holds masks of another model than {checkpoint.path}",
            f"It masks {first_few(unknown)}, which the model does not have."
            if unknown
            else f"It masks none of the covered linears ({first_few(list(coverage.linears))}).",
            "Give the model that they were made for, and check `include` and `exclude`.",
        )
    return covered, tuple(sorted(named - set(covered)))


def first_few(names: Iterable[str]) -> str:
    """Returns the first names as text, with the number of the others."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def detect_format(source: Path) -> tuple[str, str]:
    """Returns the name of the format and the evidence for it.

    General formats are considered only if no other format claims the source. Raises MaskLearnError if no format claims
    it, several do, or the source can't be read.
    """
    if not source.exists():
        raise MaskLearnError(
            f"No masks at {source}",
            "There is no such file or folder.",
            "Give a local mask file, or a pruned Hugging Face directory; nothing is downloaded.",
        )
    claims: dict[str, str] = {}
    unreadable: list[MaskLearnError] = []
    for name, kind in IMPORTERS.items():
        try:
            evidence = kind().detect(source)
        except MaskLearnError as error:
            unreadable.append(error)
            continue
        if evidence is not None:
            claims[name] = evidence
    claims = {name: evidence for name, evidence in claims.items() if not IMPORTERS[name].general} or claims
    if len(claims) > 1:
        raise MaskLearnError(
            f"{source} may be of several formats",
            f"It looks like {' and like '.join(f'{name} ({evidence})' for name, evidence in claims.items())}.",
            f"Say which with `format` {next(iter(claims))}, for example.",
        )
    if not claims:
        raise unreadable[0] if unreadable else _unknown(source)
    return next(iter(claims.items()))


def _unknown(source: Path) -> MaskLearnError:
    if source.suffix == ".safetensors":
        return MaskLearnError(
            f"{source} is a single safetensors file",
            "Weights are imported with the directory they lie in; a MaskSet needs no import.",
            "Give the Hugging Face directory, or a MaskSet as it is, as the `mask` of build.",
        )
    known = "; ".join(f"{name}, {kind.summary}" for name, kind in IMPORTERS.items())
    return MaskLearnError(
        f"{source} is not a mask file that can be imported",
        f"It is none of these: {known}. Pickled files are not read.",
        "Give mask.npz or mask_compressed.npz, or convert the pruned model with save_pretrained.",
    )
