"""The command `import-mask`: masks that others published, as a MaskSet for `build --mask`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import covered_linears_of
from masklearn.importers.base import IMPORTERS
from patch_compile.errors import PatchCompileError
from patch_compile.plan.lowering import plan_linears
from patch_compile.progress import Progress

__all__ = ["import_mask"]


def import_mask(
    source: Path,
    model: Path,
    out: Path,
    *,
    format: str | None = None,
    tile: tuple[int, int] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Write the masks of `source` for the linears of `model` to `out`, and return a summary for the table.

    format: a name of `masklearn.importers.base.IMPORTERS`; format, tile: None to find them. Raises PatchCompileError when
    `out` exists and not `force`, and as `masklearn.importers.importing.import_masks` does.
    """
    from masklearn.importers.importing import import_masks

    _check_out(out, force=force)
    progress = Progress()
    checkpoint = Checkpoint.open(model)
    coverage = covered_linears_of(checkpoint, include, exclude)
    with progress.stage("masks") as update:
        masks = import_masks(source, checkpoint, coverage, format, tile, update, progress.note)
        masks.save(out)
    imported = masks.record.imported
    assert imported is not None
    progress.note(f"build: {_command(source, model, out, imported.format, include, exclude)}")
    return {
        "path": str(out),
        "linears": [plan.row() for plan in plan_linears(masks).values()],
        "skipped": [{"name": name, "reason": why} for name, why in coverage.skipped.items()],
        "ratio": masks.ratio,
        "zeros": imported.zeros / masks.weights,
        "format": imported.format,
        "notes": progress.notes,
    }


def _command(
    source: Path, model: Path, out: Path, format: str, include: Sequence[str], exclude: Sequence[str]
) -> str:
    """How to compile with the masks, and whose weights that takes."""
    pruned = IMPORTERS[format].in_weights
    words = ["patch-compile", "build", str(source if pruned else model), "--mask", str(out)]
    words += [word for pattern in include for word in ("--include", pattern)]
    words += [word for pattern in exclude for word in ("--exclude", pattern)]
    command = shlex.join(words)
    if pruned:
        return f"{command} (the pruned weights are those of {source})"
    return f"{command} (masks only were imported: the weights are those of {model})"


def _check_out(out: Path, *, force: bool) -> None:
    if out.exists() and not force:
        raise PatchCompileError(f"{out} exists", "masks are never overwritten", "use --force, or another -o")
    if not out.resolve().parent.is_dir():
        raise PatchCompileError(f"{out.parent} is not a folder", "", "make it first, or choose another -o")
