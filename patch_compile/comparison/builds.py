"""A build in a comparison: its quality, size and speed, read from OUT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.compare import Measure, PredictedFor, PredictedSpeeds
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MASKS, REPORT
from patch_compile.artifacts.plan import PlanSummary
from patch_compile.artifacts.report import DecoderReport, Report, read_report
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.report.proof import given_words, text_words

__all__ = ["ComparedBuild", "Quality", "read_builds"]


@dataclass(frozen=True)
class Quality:
    """Quality of a build.

    dense: value of the dense model; on: the text or the inputs, in words; source: where they come from, if the build
    records it.
    """

    measure: Measure
    value: float
    dense: float
    on: str
    source: str | None

    @property
    def increase(self) -> float | None:
        """Returns the increase of the perplexity over the dense model's, or None for a relative error, which has no base."""
        return self.value / self.dense - 1 if self.measure is Measure.PERPLEXITY else None


@dataclass(frozen=True)
class ComparedBuild:
    """One OUT.

    name: short and unique among the builds; permuted, repaired: done to the weights beside pruning, which affects quality
    as much as the method; kinds: share of the covered weights in tiles of each kind, by its name; bytes_per_weight: of a
    packed weight, on average; plan: the plan of report.json, for its predictions; bench: content of bench.json,
    None if the build was not timed. Bytes are those of the ONNX file with its data, and of the dense model in the same
    form.
    """

    name: str
    path: Path
    model: str
    sha256: str
    method: str
    permuted: bool
    repaired: bool
    ratio: float
    kinds: Mapping[str, float]
    bytes_per_weight: float
    quality: Quality
    nbytes: int
    dense_bytes: int
    plan: PlanSummary
    bench: BenchReport | None

    @property
    def predicted_for(self) -> PredictedFor | None:
        """Returns the card and the workload of the predictions, or None if there are none."""
        card, workload = self.plan.card, self.plan.workload
        return PredictedFor(card=card, workload=workload) if card and workload else None

    @property
    def predicted(self) -> PredictedSpeeds | None:
        """Returns the predicted speed-ups over the dense model."""
        whole = self.plan.whole
        if whole is None:
            return None
        return PredictedSpeeds(
            prefill=whole.prefill.speedup, decode=whole.decode.speedup, end_to_end=whole.end_to_end.speedup
        )


def read_builds(paths: Sequence[Path]) -> list[ComparedBuild]:
    """Read builds, in the order given, and verify every file.

    Raises UsageError for a path that is given twice, and PatchCompileError for one that is no build, or a damaged one.
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
            "Learn and compile prove nothing, so there is no quality to compare.",
            f"Build it: `patch-compile build --mask {MASKS}`.",
        )
    totals, nbytes, learned = report.plan.totals, report.onnx.bytes, report.learned
    masks = MaskSet.load(out.path / MASKS)
    return ComparedBuild(
        name,
        path,
        report.model.path,
        report.model.sha256,
        report.method,
        learned.permuted is not None,
        learned.repair is not None,
        report.ratio.reached,
        {kind.name: weights / masks.weights for kind, weights in masks.by_kind().items()},
        masks.packed_bytes_per_weight,
        _quality(report),
        nbytes,
        nbytes + totals.bytes_before - totals.bytes_after,
        report.plan,
        BenchReport.of(out.path),
    )


def _quality(report: Report) -> Quality:
    text = report.text.eval.path if report.text else None
    if isinstance(report, DecoderReport):
        found = report.perplexity
        return Quality(Measure.PERPLEXITY, found.hybrid, found.dense, text_words(found.on), text)
    relative = report.difference.relative
    value = math.inf if relative is None else relative
    return Quality(Measure.OUTPUT_ERROR, value, 0.0, given_words(report.inputs), text)
