"""The command `compare`: the reports of several builds of one model → a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from patch_compile.artifacts.command_results import (
    BuildRow,
    CompareReport,
    Measure,
    PredictedFor,
    PredictedSpeeds,
    QualityOfAll,
)
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MASKS, REPORT
from patch_compile.artifacts.plan import PlanSummary
from patch_compile.artifacts.report import DecoderReport, Report, read_report
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.report.loss import GIVE_DENSE, NO_DENSE

# Relative difference of dense perplexities: on one text they differ only by the machine's rounding.
_SAME = 0.01


def compare(paths: Sequence[Path]) -> CompareReport:
    """Compare builds, in the order given, and verify every file.

    Raises PatchCompileError with the reason for a path that is no build, a damaged build, and builds that can't be
    compared: all must be of one model, and judged on the same text or inputs.
    """
    names = _names(paths) if paths else []
    builds = {name: (path, _read(path)) for path, name in zip(paths, names, strict=True)}
    if len(paths) < 2:
        raise UsageError(
            "There is nothing to compare with",
            f"{paths[0]} is the only build given." if paths else "No build is given.",
            "Give two or more: `patch-compile compare OUT1 OUT2`.",
        )
    reports = {name: report for name, (_, report) in builds.items()}
    _check_comparable(reports)
    first = next(iter(reports.values()))
    totals, predicted_for = first.plan.totals, _predicted_for([report.plan for report in reports.values()])
    return CompareReport(
        model=first.model,
        quality=_quality(first)[1],
        predicted_for=predicted_for,
        builds=tuple(
            _row(name, path, report, predicted=predicted_for is not None)
            for name, (path, report) in builds.items()
        ),
        dense_bytes=first.onnx.bytes + totals.bytes_before - totals.bytes_after,
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns unique names: the last parts of each path, as few as tell the paths apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(path for i, path in enumerate(paths) if parts[i] in parts[:i])
    raise UsageError(f"{twice} is given twice", "A build is not compared with itself.", "Give each once.")


def _read(path: Path) -> Report:
    out = OutFolder.open(path)
    report = read_report(out.path)
    if report is None:
        raise PatchCompileError(
            f"{path} holds no {REPORT}",
            "`learn` and `compile` measure no quality to compare.",
            f"Build it: `patch-compile build --mask {MASKS}`.",
        )
    if not report.dense_given:
        raise PatchCompileError(f"{path} has no loss to compare", NO_DENSE, GIVE_DENSE)
    return report


def _quality(report: Report) -> tuple[float, QualityOfAll]:
    """Returns the quality of a build, and the measure of it."""
    if isinstance(report, DecoderReport):
        perplexity = report.perplexity
        measure = QualityOfAll(measure=Measure.PERPLEXITY, on=str(perplexity.on), dense=perplexity.dense)
        return perplexity.pruned, measure
    relative = report.difference.relative
    measure = QualityOfAll(measure=Measure.OUTPUT_ERROR, on=str(report.inputs.given), dense=0.0)
    return math.inf if relative is None else relative, measure


def _check_comparable(reports: dict[str, Report]) -> None:
    (first, reference), *others = reports.items()
    for name, report in others:
        models = reference.model, report.model
        if len({model.sha256 for model in models}) > 1:
            raise PatchCompileError(
                f"{first} and {name} are builds of different models",
                f"{first}: {models[0].path}; {name}: {models[1].path}. Perplexities of different models cannot be compared.",
                "Compare builds of one model.",
            )
        qualities = _quality(reference)[1], _quality(report)[1]
        on = [f"{quality.measure.words} on {quality.on}" for quality in qualities]
        if on[0] != on[1]:
            raise PatchCompileError(
                f"{first} and {name} were judged on different text or inputs",
                f"{first}: {on[0]}; {name}: {on[1]}. Their figures can't be compared.",
                "Build them again with the same `--eval`, `--eval-windows`, `--eval-length` and `--dtype`. Masks are kept.",
            )
        if not math.isclose(qualities[0].dense, qualities[1].dense, rel_tol=_SAME):
            raise PatchCompileError(
                f"{first} and {name} were judged on different text",
                f"Their dense models are the same, but have perplexities of {qualities[0].dense:.2f} and "
                f"{qualities[1].dense:.2f}.",
                "Build them again with the same `--eval` and `--seed`. Masks are kept.",
            )


def _predicted_for(plans: Sequence[PlanSummary]) -> PredictedFor | None:
    """Returns the card and the workload of the predictions, or None if the plans differ in them or have none."""
    card, workload = plans[0].card, plans[0].workload
    alike = all((plan.card, plan.workload) == (card, workload) for plan in plans)
    return PredictedFor(card=card, workload=workload) if alike and card and workload else None


def _speeds(plan: PlanSummary) -> PredictedSpeeds | None:
    if (times := plan.whole) is None:
        return None
    return PredictedSpeeds(
        prefill=times.prefill.speedup, decode=times.decode.speedup, end_to_end=times.end_to_end.speedup
    )


def _row(name: str, path: Path, report: Report, *, predicted: bool) -> BuildRow:
    value, quality = _quality(report)
    perplexity = quality.measure is Measure.PERPLEXITY  # a relative error has no base
    return BuildRow(
        name=name,
        path=str(path),
        method=report.method,
        permuted=report.learned.permuted is not None,
        repaired=report.learned.repair is not None,
        ratio=report.ratio,
        quality=value,
        increase=value / quality.dense - 1 if perplexity else None,
        bytes=report.onnx.bytes,
        predicted=_speeds(report.plan) if predicted else None,
    )
