"""manifest.json: what a run was made of, with which versions, and the sha256 of every file in OUT."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from masklearn.masks.maskset import MaskSet
from patch_compile.out.layout import MANIFEST, RECIPE
from patch_compile.out.workspace import Workspace, sha256_of, write_json

__all__ = ["SCHEMA", "package_versions", "write_manifest"]

SCHEMA = 1
_PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "polygraphy",
    "tensorrt-rtx-cu13",
    "tensorrt",
    "cuda-bindings",
    "numpy",
)


def write_manifest(workspace: Workspace, seed: int, report: Mapping[str, Any], masks: MaskSet) -> None:
    """Write manifest.json of a run. report: gives its model, ratio, method and texts."""
    files = {name: digest for record in workspace.records.values() for name, digest in record.files.items()}
    files[RECIPE] = sha256_of(workspace.root / RECIPE)
    manifest = {
        "schema": SCHEMA,
        "model": report["model"],
        "ratio": report["ratio"],
        "method": report["method"],
        "seed": seed,
        "text": {"calib": _text_of(masks), **report.get("text", {})},
        "versions": package_versions(),
        "files": dict(sorted(files.items())),
        "stages": workspace.stages(),
    }
    write_json(workspace.root / MANIFEST, manifest)


def _text_of(masks: MaskSet) -> dict[str, Any] | None:
    text = masks.record.text
    return None if text is None else text.model_dump(mode="json")


def package_versions() -> dict[str, str]:
    """Of this package, Python, and whatever of the others is installed."""
    versions = {
        "patch-compile": importlib.metadata.version("patch-compile"),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
