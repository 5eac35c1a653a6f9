"""The command `import-mask`: converts published masks to a MaskSet for `build --mask`."""

from __future__ import annotations

import shlex

from masklearn import IMPORTERS
from masklearn.base.settings import Settings
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.hub import fetched
from patch_compile.artifacts.command_results import ImportedAnswer, MaskedLinear
from patch_compile.errors import PatchCompileError
from patch_compile.options import AUTO, ImportOptions
from patch_compile.pipeline.summary import skipped_of
from patch_compile.progress import Progress
from patch_compile.report.learned import mosaic_line


class ImportRequest(Settings, ImportOptions):
    """Settings of `import-mask`."""


def import_mask(request: ImportRequest, *, force: bool = False) -> ImportedAnswer:
    """Write the masks of a source for the linears of a model, and return the result that is printed.

    Raises PatchCompileError if `out` exists and `force` is not set, and the errors of
    `masklearn.importers.importing.import_masks`.
    """
    from masklearn import import_masks

    r = request
    _check_out(r, force=force)
    progress = Progress()
    checkpoint = Checkpoint.open(fetched(r.model))
    coverage = covered_linears_of(checkpoint, r.include, r.exclude)
    format = None if r.format == AUTO else r.format
    with progress.stage("masks") as update:
        masks = import_masks(r.source, checkpoint, coverage, format, r.tile, update, progress.note, r.kinds)
        masks.save(r.out)
    imported = masks.record.imported
    assert imported is not None
    if line := mosaic_line(masks):
        progress.note(line)
    progress.note(f"build: {_command(r, imported.format)}")
    return ImportedAnswer(
        path=str(r.out),
        linears=tuple(MaskedLinear.of(name, mask) for name, mask in masks.items()),
        skipped=skipped_of(coverage),
        ratio=masks.ratio,
        zeros=imported.zeros / masks.weights,
        format=imported.format,
        notes=tuple(progress.notes),
    )


def _command(request: ImportRequest, format: str) -> str:
    """Returns the command that compiles with the masks, with a remark about where its weights come from."""
    pruned, model = IMPORTERS[format].in_weights, request.model
    dense = model.resolve() != request.source.resolve()
    words = ["patch-compile", "build", str(model), "--mask", str(request.out)]
    words += ["--pruned", str(request.source)] if pruned and dense else []
    words += [word for pattern in request.include for word in ("--include", pattern)]
    words += [word for pattern in request.exclude for word in ("--exclude", pattern)]
    command = f"`{shlex.join(words)}`"
    if pruned and not dense:
        return f"{command} (its loss is only known against the dense model: import the masks with --model DENSE_DIR)"
    if pruned:
        return f"{command} (the pruned weights come from {request.source})"
    return f"{command} (only masks were imported: the weights come from {model})"


def _check_out(request: ImportRequest, *, force: bool) -> None:
    out = request.out
    for source in (request.source, request.model):
        if out.exists() and out.resolve().is_relative_to(source.resolve()):
            raise PatchCompileError(
                f"{out} belongs to {source}", "The masks are imported from it.", "Choose another -o."
            )
    if out.exists() and not force:
        raise PatchCompileError(
            f"{out} exists", "Masks are not overwritten unasked.", "Use --force, or another -o."
        )
    if not out.resolve().parent.is_dir():
        raise PatchCompileError(
            f"{out.parent} is not a folder",
            "The file of masks is written into it.",
            "Make it first, or choose another -o.",
        )
