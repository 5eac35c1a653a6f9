"""Inspects folders: the OUT of a build, and models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.artifacts.folder import faulty_files
from patch_compile.artifacts.layout import MANIFEST, ONNX
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.stage_files import foreign_files
from patch_compile.errors import PatchCompileError
from patch_compile.inspection import Inspection


def inspect_build(path: Path) -> Inspection:
    """Inspect an OUT folder by its manifest. It hashes every file, and looks where the packed linears of its ONNX file say
    that their slabs lie. Its engine is not opened."""
    manifest = Manifest.read(path / MANIFEST)
    rows: list[dict[str, Any]] = []
    for name in manifest.files:
        file = path / name
        rows.append({"file": name, "bytes": file.stat().st_size if file.is_file() else None})
    faults = [*faulty_files(path, manifest), *_onnx_faults(path)]
    facts = {
        "model": manifest.model.path,
        "sha256 of the model": manifest.model.sha256,
        "ratio": manifest.ratio.as_json(),
        "method": manifest.method,
        "seed": manifest.seed,
        "stages": list(manifest.stages),
        "versions": manifest.versions,
        "files": len(rows),
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "not in the manifest": foreign_files(path, manifest.own_paths),
    }
    return Inspection(
        path,
        "build",
        facts,
        rows,
        "every file is there and has the sha256 of the manifest, and every slab of a packed linear is stored once",
        faults,
    )


def _onnx_faults(out: Path) -> Iterator[str]:
    """Yield the faults of the ONNX file's packed linears, in words. A manifest says nothing of them: whoever writes an ONNX
    file writes the manifest too."""
    from patch_compile.inspection.onnx_graph import index_faults

    if not (out / ONNX).is_file():
        return
    try:
        yield from (f"{ONNX}: {fault}" for fault in index_faults(out / ONNX))
    except PatchCompileError as error:
        yield f"{ONNX} can't be looked into: {error.what}. {error.why}"


def inspect_checkpoint(path: Path) -> Inspection:
    """Inspect a model folder by its config and the headers of its shards. It reads no weights."""
    checkpoint = Checkpoint.open(path)
    architecture = checkpoint.architecture
    coverage = covered_linears_of(checkpoint)
    rows = [
        {"linear": name, "shape": list(shape), "weights": math.prod(shape)}
        for name, shape in coverage.linears.items()
    ]
    dtypes = Counter(checkpoint.entry(name).dtype for name in checkpoint.names())
    grids = Counter(kind.name for kind in checkpoint.grids.types.values())
    facts = {
        "architecture": checkpoint.config.get("model_type"),
        "encoder": architecture.encoder,
        "shards": len(checkpoint.files()),
        "tensors": len(checkpoint.names()),
        "types": dict(dtypes),
        **({"quantised, shown as dense": dict(grids)} if grids else {}),
        **({"linears with int8 inputs": len(checkpoint.rounded_inputs)} if checkpoint.rounded_inputs else {}),
        "parameters": sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names()),
        "bytes": sum(file.stat().st_size for file in checkpoint.files()),
        "covered linears": len(coverage.linears),
        "weights in them": sum(map(math.prod, coverage.linears.values())),
        "left dense": dict(coverage.skipped),
    }
    return Inspection(path, "model", facts, rows, "every shard's header describes every byte of it")
