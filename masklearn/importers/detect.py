"""Detects the format of a source by its content."""

from collections.abc import Iterator
from pathlib import Path

from masklearn.base.errors import MaskLearnError
from masklearn.importers.base import IMPORTERS

__all__ = ["detect_format"]


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
    unreadable: list[MaskLearnError] = []
    for general in (False, True):
        claimed = dict(_claims(source, unreadable, general=general))
        if len(claimed) > 1:
            raise _ambiguous(source, claimed)
        if claimed:
            return next(iter(claimed.items()))
    raise unreadable[0] if unreadable else _unknown(source)


def _claims(source: Path, unreadable: list[MaskLearnError], *, general: bool) -> Iterator[tuple[str, str]]:
    """Yield formats that claim the source, with their evidence. Errors of reading it are added to `unreadable`."""
    for name, kind in IMPORTERS.items():
        if kind.general is not general:
            continue
        try:
            shown = kind().detect(source)
        except MaskLearnError as error:
            unreadable.append(error)
            continue
        if shown is not None:
            yield name, shown


def _ambiguous(source: Path, claimed: dict[str, str]) -> MaskLearnError:
    return MaskLearnError(
        f"{source} may be of several formats",
        f"It looks like {' and like '.join(f'{name} ({shown})' for name, shown in claimed.items())}.",
        f"Say which with `format` {next(iter(claimed))}, for example.",
    )


def _unknown(source: Path) -> MaskLearnError:
    if source.suffix == ".safetensors":
        return MaskLearnError(
            f"{source} is a single safetensors file",
            "Weights are imported with the directory they lie in; a MaskSet needs no import.",
            "Give the Hugging Face directory, or use a MaskSet as it is: build --mask FILE.",
        )
    known = "; ".join(f"{name}, {kind.summary}" for name, kind in IMPORTERS.items())
    return MaskLearnError(
        f"{source} is no mask file that can be imported",
        f"It is none of these: {known}. Pickled files are not read.",
        "Give mask.npz or mask_compressed.npz, or convert the pruned model with save_pretrained.",
    )
