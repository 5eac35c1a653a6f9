"""Folders: the OUT of a run, and models."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from masklearn.architectures import architecture_of
from masklearn.checkpoint import Checkpoint
from masklearn.coverage import covered_linears_of
from patch_compile.errors import PatchCompileError
from patch_compile.inspecting.found import Found
from patch_compile.workspace import MANIFEST, sha256_of

__all__ = ["inspect_build", "inspect_checkpoint"]


def inspect_build(path: Path) -> Found:
    """OUT by its manifest; every file is hashed."""
    manifest = _manifest(path / MANIFEST)
    rows, faults = [], []
    for name, digest in manifest["files"].items():
        file = path / name
        there = file.is_file()
        rows.append({"file": name, "bytes": file.stat().st_size if there else None})
        if not there:
            faults.append(f"{name} is missing")
        elif sha256_of(file) != digest:
            faults.append(f"{name} is not the file that was written: its sha256 is another one")
    known = set(manifest["files"]) | {MANIFEST}
    files = (str(file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file())
    facts = {
        "model": manifest["model"]["path"],
        "sha256 of the model": manifest["model"]["sha256"],
        "ratio": manifest["ratio"],
        "method": manifest["method"],
        "seed": manifest["seed"],
        "stages": list(manifest["stages"]),
        "versions": manifest["versions"],
        "files": len(rows),
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "not in the manifest": [name for name in files if name not in known],
    }
    return Found(path, "build", facts, rows, "every file is there and has the sha256 of the manifest", faults)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        for key in ("files", "model", "ratio", "method", "seed", "stages", "versions"):
            manifest[key]
        manifest["model"]["path"], manifest["model"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise PatchCompileError(
            f"{path} is no manifest of patch-compile", f"{type(error).__name__}: {error}", "build again"
        ) from None
    return manifest


def inspect_checkpoint(path: Path) -> Found:
    """A model by its config and the headers of its shards; no weight is read."""
    checkpoint = Checkpoint.open(path)
    architecture = architecture_of(checkpoint)
    coverage = covered_linears_of(checkpoint)
    rows = [
        {"linear": name, "shape": list(shape), "weights": math.prod(shape)}
        for name, shape in coverage.linears.items()
    ]
    dtypes = Counter(checkpoint.entry(name).dtype for name in checkpoint.names())
    facts = {
        "architecture": checkpoint.config.get("model_type"),
        "encoder": architecture.encoder,
        "shards": len(checkpoint.files()),
        "tensors": len(checkpoint.names()),
        "types": dict(dtypes),
        "parameters": sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names()),
        "bytes": sum(file.stat().st_size for file in checkpoint.files()),
        "covered linears": len(coverage.linears),
        "weights in them": sum(map(math.prod, coverage.linears.values())),
        "left dense": dict(coverage.skipped),
    }
    return Found(path, "model", facts, rows, "every shard's header describes every byte of it")
