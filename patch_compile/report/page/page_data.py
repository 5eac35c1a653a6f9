"""The files of OUT that the page shows, each read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masklearn import BesideBaselines
from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.model.hub import model_name
from patch_compile.artifacts.bench import BenchReport, BenchRow
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MASKS, RECIPE, REPORT
from patch_compile.artifacts.manifest import EvalText, Manifest
from patch_compile.artifacts.prediction import WholeRow
from patch_compile.artifacts.proof import EmbeddingsDifference, OutputsDifference
from patch_compile.artifacts.recipe_file import read_recipe
from patch_compile.artifacts.report import DecoderReport, Kind, OutputsReport, Report, read_report
from patch_compile.artifacts.verify import PrunedOutputs, PrunedTokens, VerifyReport
from patch_compile.errors import PatchCompileError
from patch_compile.report.number_format import joined

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Perplexities:
    """Perplexities of the dense and the pruned model. how: the text, and how they were measured; held_out: False for text
    that the model wrote."""

    dense: float
    pruned: float
    how: str
    held_out: bool


@dataclass(frozen=True)
class Sources:
    """Files of one build.

    out: the folder, by the name that the page shows; recipe: the settings by name, as recipe_text spells them; verify,
    bench: None if the command has not run; unread: reasons why a file of theirs is not shown.
    """

    out: Path
    report: Report
    manifest: Manifest
    recipe: Row
    recipe_text: str
    masks: MaskSet
    verify: VerifyReport | None
    bench: BenchReport | None
    unread: tuple[str, ...] = ()

    @classmethod
    def read(cls, out: Path, *, place: Path | None = None) -> Sources:
        """Read OUT. place: see `renew_page`. Raises PatchCompileError if OUT is not a finished build or one of its files is
        damaged."""
        folder = OutFolder.open(out, check=False)
        verify, unread = _shown(out)
        report = read_report(out)
        if report is None or not (out / RECIPE).is_file():
            raise PatchCompileError(
                f"{out} is not a whole build",
                f"It holds no {REPORT if report is None else RECIPE}.",
                "Build it: `patch-compile build MODEL_DIR`.",
            )
        return cls(
            place or out.resolve(),  # the page is the same, however OUT was spelled
            report,
            folder.manifest,
            read_recipe(out / RECIPE),
            (out / RECIPE).read_text(encoding="utf-8"),
            MaskSet.load(out / MASKS),
            verify,
            BenchReport.of(out),
            unread,
        )

    @property
    def name(self) -> str:
        return model_name(self.report.model.path)

    @property
    def share(self) -> float:
        """Returns `p`: weights in 2:4 tiles over all covered weights."""
        return self.masks.by_kind().get(TWO_FOUR, 0) / self.masks.weights

    @property
    def pruned_share(self) -> float:
        """Returns the weights in tiles that are pruned over all covered weights."""
        return 1 - self.masks.by_kind().get(DENSE, 0) / self.masks.weights

    @property
    def pruned_kinds(self) -> str:
        return joined([kind.name for kind in self.masks.by_kind() if kind != DENSE] or [TWO_FOUR.name])

    @property
    def whole(self) -> WholeRow | None:
        return self.report.plan.whole

    @property
    def phases(self) -> tuple[str, ...]:
        """Returns the phases of the workload.

        An encoder, and an ONNX file of an unknown model, runs once and generates nothing.
        """
        if self.whole:
            return self.whole.phases
        return ("prefill", "decode", "end_to_end") if self.report.kind is Kind.DECODER else ("prefill",)

    @property
    def baselines(self) -> BesideBaselines | None:
        return self.verify.baselines if self.verify else None

    @property
    def pruned(self) -> PrunedTokens | PrunedOutputs | Report:
        """Returns the measurements of `verify` if there are any, else of the build."""
        return (self.verify.pruned if self.verify else None) or self.report

    @property
    def perplexity(self) -> Perplexities | None:
        """None for an encoder and an ONNX file."""
        answer = self.pruned
        if not isinstance(answer, PrunedTokens | DecoderReport):
            return None
        text: EvalText | None = self.verify.text if self.verify else None
        if isinstance(answer, DecoderReport):
            text = answer.text.eval
        on = answer.perplexity.on if isinstance(answer, DecoderReport) else answer.on
        held_out = text is not None and text.path is not None
        return Perplexities(answer.perplexity.dense, answer.perplexity.pruned, str(on), held_out)

    @property
    def outputs(self) -> OutputsDifference | None:
        if isinstance(self.pruned, OutputsReport):
            return self.pruned.difference
        return self.pruned if isinstance(self.pruned, PrunedOutputs) else None

    @property
    def embeddings(self) -> EmbeddingsDifference | None:
        return self.pruned.embeddings if isinstance(self.pruned, PrunedOutputs | OutputsReport) else None

    @property
    def measured(self) -> list[tuple[BenchRow, float]]:
        """Returns the benchmark's rows that compare the engine with the dense engine, each with its speed-up."""
        rows = self.bench.rows if self.bench else ()
        return [(row, row.speedup) for row in rows if row.speedup is not None]

    @property
    def measured_first(self) -> dict[str, tuple[BenchRow, float]]:
        return {row.phase: (row, speedup) for row, speedup in reversed(self.measured)}


def _shown(out: Path) -> tuple[VerifyReport | None, tuple[str, ...]]:
    """Returns verify.json, or the reason why it is not shown: a page is also renewed by commands that need no
    verification."""
    try:
        return VerifyReport.of(out), ()
    except PatchCompileError as error:
        return None, (f"{error.what}. {error.why}",)
