"""A build in a comparison: its quality, size and speed, read from OUT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.compare import (
    BuildFigures,
    Measure,
    PredictedFor,
    PredictedSpeeds,
    QualityOfAll,
)
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MASKS, REPORT
from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.plan import PlanSummary
from patch_compile.artifacts.report import DecoderReport, Report, read_report
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.report.loss import GIVE_DENSE, NO_DENSE


@dataclass(frozen=True)
class ComparedBuild:
    """One OUT.

    quality: the measure of its quality, with the dense model's value; dense_bytes: bytes of the dense model in the same
    form; plan: the plan of report.json, for its predictions; bench: content of bench.json, None if the build was not timed.
    """

    figures: BuildFigures
    model: ModelOrigin
    quality: QualityOfAll
    dense_bytes: int
    plan: PlanSummary
    bench: BenchReport | None

    @property
    def name(self) -> str:
        return self.figures.name

    @property
    def predicted_for(self) -> PredictedFor | None:
        """Returns the card and the workload of the predictions, or None if there are none."""
        card, workload = self.plan.card, self.plan.workload
        return PredictedFor(card=card, workload=workload) if card and workload else None


def read_builds(paths: Sequence[Path]) -> list[ComparedBuild]:
    """Read builds, in the order given, and verify every file.

    Raises UsageError for a path that is given twice, and PatchCompileError for a path that is not a build, or a damaged
    build.
    """
    return [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns unique names: the last parts of each path, as few as tell the paths apart."""
    parts = [path.resolve().parts for path in paths]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(path for i, path in enumerate(paths) if parts[i] in parts[:i])
    raise UsageError(f"{twice} is given twice", "A build is not compared with itself.", "Give each once.")


def _read(path: Path, name: str) -> ComparedBuild:
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
    totals, nbytes, learned = report.plan.totals, report.onnx.bytes, report.learned
    masks, (value, quality) = MaskSet.load(out.path / MASKS), _quality(report)
    perplexity = quality.measure is Measure.PERPLEXITY  # a relative error has no base
    figures = BuildFigures(
        name=name,
        path=str(path),
        method=report.method,
        permuted=learned.permuted is not None,
        repaired=learned.repair is not None,
        ratio=report.ratio,
        kinds={kind.name: weights / masks.weights for kind, weights in masks.by_kind().items()},
        bytes_per_weight=masks.packed_bytes_per_weight,
        quality=value,
        increase=value / quality.dense - 1 if perplexity else None,
        bytes=nbytes,
        predicted=_predicted(report.plan),
    )
    return ComparedBuild(
        figures,
        report.model,
        quality,
        nbytes + totals.bytes_before - totals.bytes_after,
        report.plan,
        BenchReport.of(out.path),
    )


def _predicted(plan: PlanSummary) -> PredictedSpeeds | None:
    whole = plan.whole
    if whole is None:
        return None
    return PredictedSpeeds(
        prefill=whole.prefill.speedup, decode=whole.decode.speedup, end_to_end=whole.end_to_end.speedup
    )


def _quality(report: Report) -> tuple[float, QualityOfAll]:
    """Returns the quality of a build, and the measure of it."""
    if isinstance(report, DecoderReport):
        found = report.perplexity
        on = QualityOfAll(measure=Measure.PERPLEXITY, on=str(found.on), dense=found.dense)
        return found.pruned, on
    relative = report.difference.relative
    value = math.inf if relative is None else relative
    return value, QualityOfAll(measure=Measure.OUTPUT_ERROR, on=str(report.inputs.given), dense=0.0)
