"""Parts of reports and summaries about a job: the model, its masks, and the written files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masklearn.masks.maskset import MaskSet
from patch_compile.build.prepare import Job
from patch_compile.out.engine import EngineReport
from patch_compile.out.layout import ENGINE, ENGINE_REPORT, ONNX, ONNX_FOLDER
from patch_compile.out.manifest import Manifest

__all__ = ["about_files", "about_masks", "about_model"]


def about_model(job: Job, masks: MaskSet, linears: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the description of the model and of its pruned linears. linears: a row of the plan for each linear."""
    source = job.source
    return {
        "schema": Manifest.SCHEMA,
        "kind": str(source.kind),
        "model": {"path": str(source.model.resolve()), "sha256": source.fingerprint},
        "method": masks.method,
        "ratio": {"asked": masks.ratio_asked, "reached": masks.ratio},
        "linears": linears,
        "skipped": [{"name": name, "reason": why} for name, why in source.coverage.skipped.items()],
    }


def about_masks(job: Job, masks: MaskSet, linears: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns `about_model`, the places of the 2:4 tiles, and the record of how the masks were learned."""
    from masklearn.masks.summary import summarise_tiles

    where = summarise_tiles(masks.tile_maps())
    return {**about_model(job, masks, linears), "where_sparse": where, "learned": masks.record.as_metadata()}


def about_files(job: Job, root: Path) -> dict[str, Any]:
    """Returns the description of the ONNX file and of the engine, None without an engine. root: the folder that becomes
    OUT."""
    nbytes = sum(file.stat().st_size for file in (root / ONNX_FOLDER).iterdir())
    engine = root / ENGINE_REPORT
    built = EngineReport.read(engine).details if engine.is_file() else None
    return {
        "onnx": {"path": str(job.out / ONNX), "bytes": nbytes},
        "engine": {"path": str(job.out / ENGINE), **built.as_json()} if built else None,
    }
