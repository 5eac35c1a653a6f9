"""The files of OUT that the page shows, each read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from masklearn.masks.maskset import MaskSet
from masklearn.quality.record import BesideBaselines
from patch_compile.errors import PatchCompileError
from patch_compile.out.bench import BenchReport, BenchRow
from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import MASKS, RECIPE, REPORT, VERIFY
from patch_compile.out.manifest import Manifest
from patch_compile.out.plan import LinearRow, PlanSummary, WholeRow
from patch_compile.out.report import Kind, read_report

__all__ = ["Row", "Sources"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    """Files of one build. verify, bench: None if the command has not run."""

    out: Path
    report: Row
    manifest: Manifest
    recipe_text: str
    masks: MaskSet
    verify: Row | None
    bench: BenchReport | None

    @classmethod
    def read(cls, out: Path) -> Sources:
        """Read OUT. Raises PatchCompileError if it is no finished build."""
        folder = OutFolder.open(out, check=False)
        report = read_report(out)
        if report is None or not (out / RECIPE).is_file():
            raise PatchCompileError(
                f"{out} is no whole build",
                f"It holds no {REPORT if report is None else RECIPE}.",
                "Build it: `patch-compile build MODEL_DIR`.",
            )
        return cls(
            out,
            report,
            folder.manifest,
            (out / RECIPE).read_text(encoding="utf-8"),
            MaskSet.load(out / MASKS),
            folder.read_json(VERIFY),
            BenchReport.of(out),
        )

    @property
    def recipe(self) -> Row:
        """Returns the settings by name."""
        settings: Row = yaml.safe_load(self.recipe_text)
        return settings

    @property
    def kind(self) -> Kind:
        """Returns the kind of model that was built."""
        return Kind(self.report["kind"])

    @property
    def name(self) -> str:
        """Returns the name of the model for readers."""
        return Path(self.report["model"]["path"]).name

    @property
    def share(self) -> float:
        """Returns `p`: weights in 2:4 tiles over all covered weights."""
        return 2 * float(self.report["ratio"]["reached"])

    @cached_property
    def linears(self) -> tuple[LinearRow, ...]:
        """Returns the covered linears as they were compiled."""
        return tuple(map(LinearRow.model_validate, self.report["linears"]))

    @cached_property
    def plan(self) -> PlanSummary:
        """Returns the plan's summary of the whole model."""
        return PlanSummary.model_validate(self.report["plan"])

    @property
    def whole(self) -> WholeRow | None:
        """Returns the predicted times of the whole model, or None without predictions."""
        return self.plan.whole

    @property
    def phases(self) -> tuple[str, ...]:
        """Returns the phases of the workload.

        An encoder, and an ONNX file of an unknown model, runs once and generates nothing.
        """
        steps = self.whole.decode.dense_ms > 0.0 if self.whole else self.kind is Kind.DECODER
        return ("prefill", "decode", "end_to_end") if steps else ("prefill",)

    @property
    def where(self) -> Row:
        """Returns the parts of `verify` on where the error arose, empty if they were not requested."""
        return (self.verify or {}).get("where") or {}

    @property
    def baselines(self) -> BesideBaselines | None:
        """Returns the baselines of `verify`, or None if it made no comparison with any."""
        found = (self.verify or {}).get("baselines")
        return BesideBaselines.model_validate(found) if found else None

    @property
    def perplexity(self) -> Row | None:
        """Returns {"dense", "pruned", "how"}, measured by `verify` if it did so, else by the build; None for an encoder."""
        pruned = (self.verify or {}).get("pruned") or {}
        if found := pruned.get("perplexity"):
            return {"dense": found["dense"], "pruned": found["pruned"], "how": pruned["how"]}
        built = self.report.get("perplexity")
        return built and {"dense": built["dense"], "pruned": built["hybrid"], "how": built["text"]}

    @property
    def measured(self) -> list[tuple[BenchRow, float]]:
        """Returns the benchmark's rows of an engine on a GPU against the dense one, each with its speed-up.

        It is empty if only ONNX Runtime was timed.
        """
        if self.bench is None or not self.bench.runner.on_gpu:
            return []
        return [(row, row.speedup) for row in self.bench.rows if row.speedup is not None]

    @property
    def measured_first(self) -> dict[str, tuple[BenchRow, float]]:
        """Returns the first of the measured rows of each phase."""
        return {row.phase: (row, speedup) for row, speedup in reversed(self.measured)}
