"""Sections of results about a job: the model, its masks, and the written files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from masklearn.masks.kinds.table import DENSE
from masklearn.masks.maskset import MaskSet
from masklearn.model.coverage import Coverage
from masklearn.model.hub import spelled
from patch_compile.artifacts.engine import BuiltEngine, EngineReport, PluginHeaders
from patch_compile.artifacts.layout import ENGINE, ENGINE_REPORT, ONNX, ONNX_FOLDER, ONNX_NAME
from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.plan import LinearRow, Skipped
from patch_compile.artifacts.report import MaskedModel, OnnxFile, PrunedModel
from patch_compile.pipeline.prepare import Job
from patch_compile.plugin.build import PluginLibrary
from patch_compile.plugin.toolchain import HEADER_SHA256


def pruned_model(job: Job, masks: MaskSet, linears: Iterable[LinearRow]) -> PrunedModel:
    """Returns the description of the model and of its pruned linears."""
    source = job.source
    return PrunedModel(
        kind=source.kind,
        model=ModelOrigin(path=spelled(source.model), sha256=source.fingerprint),
        method=masks.method,
        asked=job.recipe.asked,
        ratio=masks.ratio,
        linears=tuple(linears),
        skipped=skipped_of(source.coverage),
    )


def masked_model(job: Job, masks: MaskSet, linears: Iterable[LinearRow]) -> MaskedModel:
    """Returns `pruned_model` with the places of the pruned tiles and the record of how the masks were learned."""
    from masklearn.masks.record import summarise_tiles

    where = summarise_tiles({name: codes != DENSE.code for name, codes in masks.kind_maps().items()})
    return MaskedModel(**dict(pruned_model(job, masks, linears)), where_sparse=where, learned=masks.record)


def skipped_of(coverage: Coverage) -> tuple[Skipped, ...]:
    """Returns the linears that stay dense."""
    return tuple(Skipped(name=name, reason=why) for name, why in coverage.skipped.items())


def onnx_of(job: Job, root: Path) -> OnnxFile:
    """Returns the description of the ONNX file. root: the folder that becomes OUT."""
    nbytes = sum(file.stat().st_size for file in (root / ONNX_FOLDER).glob(f"{ONNX_NAME}*"))
    return OnnxFile(path=str(job.out / ONNX), bytes=nbytes)


def engine_of(job: Job, root: Path) -> BuiltEngine | None:
    """Returns the description of the engine, None without an engine. root: the folder that becomes OUT."""
    report = root / ENGINE_REPORT
    if not report.is_file():
        return None
    return BuiltEngine(path=str(job.out / ENGINE), **dict(EngineReport.read(report).details))


def headers_of(plugin: PluginLibrary) -> PluginHeaders:
    """Returns the version and the origin of TensorRT's headers in a plugin."""
    package = plugin.headers_package if plugin.headers else None
    return PluginHeaders(
        version=plugin.headers_version,
        folder=str(plugin.headers) if plugin.headers and package is None else None,
        package=package,
        sha256=HEADER_SHA256 if package else None,
    )
