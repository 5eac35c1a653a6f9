"""The command `export`: writes the pruned model of a build in a form that other programs read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from masklearn.base.progress import OnStep
from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.prune import write_compressed
from patch_compile.artifacts.command_results import ExportedAnswer
from patch_compile.artifacts.folder import OutFolder, kept_for_writing
from patch_compile.artifacts.layout import COMPRESSED_FOLDER, EDGELLM_FOLDER, MASKS, MODEL, PRUNED_ONNX
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress

if TYPE_CHECKING:
    from patch_compile.pipeline.edgellm import EdgeLlmExporter

_PLAIN = "not quantised"


def export_checkpoint(path: Path, format: str) -> ExportedAnswer:
    """Write OUT/compressed-tensors, and return the result that is printed.

    Raises PatchCompileError if OUT has no quantised linears or was changed, for a model that the format cannot hold, and
    if another process writes into OUT.
    """
    with kept_for_writing(path):
        progress = Progress()
        with progress.stage("manifest"):
            out = OutFolder.open(path)
        _check_has_checkpoint(path)
        model, masks = Checkpoint.open(path / MODEL), MaskSet.load(path / MASKS)
        with out.replacing(COMPRESSED_FOLDER) as folder:
            with progress.stage(format) as update:
                write_compressed(model, masks.grids, folder, update)
            with progress.stage("reading it back") as update:
                stored = _check_same(folder, model, update)
        out.record_folder(COMPRESSED_FOLDER, key_of(masks.base_sha256, format))
        _note_wide_scales(stored, progress)
        if static := sum(scales is not None for scales in model.rounded_inputs.values()):
            progress.note(
                f"inputs: {static} linears have static scales in OUT and get a scale for each token in the export"
            )
        return ExportedAnswer(
            path=str(path / COMPRESSED_FOLDER),
            format=format,
            linears=dict(
                Counter(masks.grids[name].type.name if name in masks.grids else _PLAIN for name in masks)
            ),
            bytes=stored.bytes(),
            model_bytes=model.bytes(),
            notes=tuple(progress.notes),
            seconds=progress.seconds,
        )


def export_edgellm(path: Path, exporter: EdgeLlmExporter) -> ExportedAnswer:
    """Write OUT/edgellm, and return the result that is printed.

    Raises PatchCompileError if OUT has no pruned checkpoint or was changed, if the exporter fails, and if another process
    writes into OUT.
    """
    from patch_compile.pipeline.edgellm import write_edgellm

    with kept_for_writing(path):
        progress = Progress()
        with progress.stage("manifest"):
            out = OutFolder.open(path)
        _check_has_checkpoint(path)
        with out.replacing(EDGELLM_FOLDER) as folder:
            plan = write_edgellm(path, folder, exporter, progress)
        out.record_folder(EDGELLM_FOLDER, key_of(sha256_of(path / MASKS), exporter.version))
    files = [file for file in (path / EDGELLM_FOLDER).rglob("*") if file.is_file()]
    return ExportedAnswer(
        path=str(path / EDGELLM_FOLDER),
        format="edgellm",
        linears=dict(Counter(linear.lowering for linear in plan.values())),
        bytes=sum(file.stat().st_size for file in files),
        model_bytes=Checkpoint.open(path / MODEL).bytes(),
        notes=tuple(progress.notes),
        seconds=progress.seconds,
    )


def _check_has_checkpoint(path: Path) -> None:
    if not (path / MODEL).is_dir() or (path / PRUNED_ONNX).is_file():
        raise PatchCompileError(
            f"{path} holds no pruned checkpoint",
            f"It was made from an ONNX file, or by `compile`, which writes no {MODEL}.",
            "Give the OUT of `build` or `learn` of a Hugging Face folder.",
        )


def _check_same(folder: Path, model: Checkpoint, update: OnStep) -> Checkpoint:
    """Read the written weights back, and compare them with the pruned checkpoint. Returns the folder as it is stored."""
    written = Checkpoint.open(folder)
    names = model.names()
    if written.names() != names:
        raise ValueError(f"{folder} stands for other tensors than {model.path}")
    if written.rounded_inputs.keys() != model.rounded_inputs.keys():
        raise ValueError(f"{folder} rounds the inputs of other linears than {model.path}")
    for done, name in enumerate(names, start=1):
        if not np.array_equal(written.read(name), model.read(name)):
            raise ValueError(f"{name} in {folder} differs from {name} in {model.path}")
        update(name, done, len(names))
    return Checkpoint.open(folder, as_stored=True)


def _note_wide_scales(stored: Checkpoint, progress: Progress) -> None:
    wide = sum(
        name.endswith(".weight_scale") and stored.entry(name).dtype == "F32" for name in stored.names()
    )
    if wide:
        progress.note(
            f"scales: {wide} linears have 32-bit scales; transformers keeps them only with "
            "CompressedTensorsConfig(dequantize=True), and else rounds them to the type that it loads"
        )
