"""Which format a source has, from what it holds."""

from collections.abc import Iterator
from pathlib import Path

from masklearn.errors import PatchCompileError
from masklearn.importers.base import IMPORTERS

__all__ = ["detect_format"]


def detect_format(source: Path) -> tuple[str, str]:
    """The name of the format, and what shows it. PatchCompileError when it is none that can be imported.

    A format without a mark of its own is taken where no other claims the source.
    """
    if not source.exists():
        raise PatchCompileError(
            f"No masks at {source}",
            "There is no such file or folder.",
            "Give a local mask file, or a pruned Hugging Face directory; nothing is downloaded.",
        )
    unreadable: list[PatchCompileError] = []
    for general in (False, True):
        claimed = dict(_claims(source, unreadable, general=general))
        if len(claimed) > 1:
            raise _ambiguous(source, claimed)
        if claimed:
            return next(iter(claimed.items()))
    raise unreadable[0] if unreadable else _unknown(source)


def _claims(source: Path, unreadable: list[PatchCompileError], *, general: bool) -> Iterator[tuple[str, str]]:
    """Formats that know the source, with what shows it; errors of those that can't read it are kept."""
    for name, kind in IMPORTERS.items():
        if kind.general is not general:
            continue
        try:
            shown = kind().detect(source)
        except PatchCompileError as error:
            unreadable.append(error)
            continue
        if shown is not None:
            yield name, shown


def _ambiguous(source: Path, claimed: dict[str, str]) -> PatchCompileError:
    return PatchCompileError(
        f"{source} may be of several formats",
        f"It looks like {' and like '.join(f'{name} ({shown})' for name, shown in claimed.items())}.",
        f"Say which with --format {next(iter(claimed))}, for example.",
    )


def _unknown(source: Path) -> PatchCompileError:
    if source.suffix == ".safetensors":
        return PatchCompileError(
            f"{source} is a single safetensors file",
            "Weights are imported with the directory they lie in; a MaskSet needs no import.",
            "Give the Hugging Face directory, or use a MaskSet as it is: build --mask FILE.",
        )
    known = "; ".join(f"{name}, {kind.summary}" for name, kind in IMPORTERS.items())
    return PatchCompileError(
        f"{source} is no mask file that can be imported",
        f"It is none of these: {known}. Pickled files are not read.",
        "Give mask.npz or mask_compressed.npz, or convert the pruned model with save_pretrained.",
    )
