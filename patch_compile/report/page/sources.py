"""What the page is made of: the files of OUT, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from masklearn.masks.maskset import MaskSet
from patch_compile.errors import PatchCompileError
from patch_compile.out.bench import BenchReport
from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import MASKS, RECIPE, REPORT, VERIFY
from patch_compile.out.manifest import Manifest
from patch_compile.out.plan import LinearRow, PlanSummary, WholeRow
from patch_compile.out.report import Kind, read_report

__all__ = ["Row", "Sources"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sources:
    """Files of one build, as they lie there; verify, bench: None where that was not run."""

    out: Path
    report: Row
    manifest: Manifest
    recipe_text: str
    masks: MaskSet
    verify: Row | None
    bench: Row | None

    @classmethod
    def read(cls, out: Path) -> Sources:
        """Read OUT; PatchCompileError when it is no finished build."""
        folder = OutFolder.open(out, check=False)
        report, bench = read_report(out), BenchReport.of(out)
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
            bench.as_json() if bench else None,
        )

    @property
    def recipe(self) -> Row:
        """The settings by name."""
        settings: Row = yaml.safe_load(self.recipe_text)
        return settings

    @property
    def kind(self) -> Kind:
        """The kind of model that was built."""
        return Kind(self.report["kind"])

    @property
    def name(self) -> str:
        """The model as a person calls it."""
        return Path(self.report["model"]["path"]).name

    @property
    def share(self) -> float:
        """`p`: weights in 2:4 tiles, over all covered weights."""
        return 2 * float(self.report["ratio"]["reached"])

    @cached_property
    def linears(self) -> tuple[LinearRow, ...]:
        """The covered linears as they were compiled."""
        return tuple(map(LinearRow.model_validate, self.report["linears"]))

    @cached_property
    def plan(self) -> PlanSummary:
        """What the plan says of the whole model."""
        return PlanSummary.model_validate(self.report["plan"])

    @property
    def whole(self) -> WholeRow | None:
        """Predicted times of the whole model, None where nothing is predicted."""
        return self.plan.whole

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases of the workload: an encoder, and an ONNX file that nothing is known of, run once and generate nothing."""
        steps = self.whole.decode.dense_ms > 0.0 if self.whole else self.kind is Kind.DECODER
        return ("prefill", "decode", "end_to_end") if steps else ("prefill",)

    @property
    def where(self) -> Row:
        """What `verify` found of where the error went; empty where it was not asked."""
        return (self.verify or {}).get("where") or {}

    @property
    def perplexity(self) -> Row | None:
        """{"dense", "pruned", "how"}: of `verify` where that measured it, else of the build; None for an encoder."""
        pruned = (self.verify or {}).get("pruned") or {}
        if found := pruned.get("perplexity"):
            return {"dense": found["dense"], "pruned": found["pruned"], "how": pruned["how"]}
        built = self.report.get("perplexity")
        return built and {"dense": built["dense"], "pruned": built["hybrid"], "how": built["text"]}

    @property
    def measured(self) -> list[Row]:
        """Rows of the bench of an engine on a GPU beside the dense one; none where only ONNX Runtime was timed."""
        if self.bench is None or not self.bench["runner"].startswith("tensorrt"):
            return []
        return [row for row in self.bench["rows"] if row["speedup"] is not None]

    @property
    def measured_first(self) -> dict[str, Row]:
        """Of those, the row of each phase that was timed first."""
        return {row["phase"]: row for row in reversed(self.measured)}
