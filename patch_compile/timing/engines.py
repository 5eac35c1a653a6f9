"""Builds the engines of the other contenders, with the settings and shapes of the hybrid engine."""

from __future__ import annotations

from pathlib import Path

from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import (
    ENGINE,
    ENGINE_NAME,
    ENGINE_REPORT,
    ENGINE_REPORT_NAME,
    RECIPE,
)
from patch_compile.errors import PatchCompileError
from patch_compile.progress import Progress
from patch_compile.recipe import Recipe
from patch_compile.runtime.engine_fit import engine_facts, why_not

__all__ = ["build_contender", "engine_report", "why_no_engine"]


def why_no_engine(out: OutFolder) -> str | None:
    """Returns the reason why the engine of OUT can't be timed here, in words, or None if none is known beforehand."""
    engine = out.path / ENGINE
    return why_not(engine_facts(engine)) if engine.is_file() else "there is none"


def build_contender(
    name: str, onnx: Path, out: OutFolder, r: Recipe, folder: Path, progress: Progress
) -> Path:
    """Build the engine of an ONNX file in `folder`, and return its path.

    It takes the backend, targets, shapes and options of OUT's own engine.
    """
    from patch_compile.engine.build import build_engine
    from patch_compile.engine.expectation import expectation_from_onnx
    from patch_compile.engine.profiles import profiles_from_onnx
    from patch_compile.hardware.cards import parse_architectures

    built = engine_report(out)
    expected, engine = expectation_from_onnx(onnx), folder / ENGINE_NAME
    with progress.stage(f"{name} engine") as update:
        report = build_engine(
            onnx,
            engine,
            backend=built.backend,
            targets=parse_architectures(",".join(built.targets)),
            profiles=profiles_from_onnx(onnx, r.min_shapes, r.opt_shapes, r.max_shapes),
            plugin=_plugin(out) if expected.patch_linears else None,
            expected=expected,
            options=r.engine_options(),
            progress=update,
        )
    report.write(engine.with_name(ENGINE_REPORT_NAME))
    return engine


def engine_report(out: OutFolder) -> EngineReport:
    """Returns the report of the engine of OUT. Raises PatchCompileError if there is none."""
    about = EngineReport.of(out.path)
    if about is None:
        raise PatchCompileError(
            f"{out.path} does not say how its engine was built",
            f"{ENGINE_REPORT} is not there.",
            f"Build it again: `patch-compile build --recipe {out.path / RECIPE} -o {out.path} --force`.",
        )
    return about


def _plugin(out: OutFolder) -> Path:
    """Returns the library that was compiled here for the hybrid engine. If there is none, it is compiled now."""
    from patch_compile.hardware.cards import parse_architectures
    from patch_compile.plugin.architectures import archs_for
    from patch_compile.plugin.build import build_plugin
    from patch_compile.plugin.trust import matching_library

    built = engine_report(out)
    sms = [target.sm for target in parse_architectures(",".join(built.targets))]
    found = matching_library(built.backend, built.plugin_version, sms)
    return found or build_plugin(built.backend, archs=archs_for(sms)).path
