"""The results of the library: a report that prints as tables in a terminal and as HTML in a notebook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.printable import json_printable
from patch_compile.artifacts.layout import MASKS, PLAN

if TYPE_CHECKING:
    from masklearn.masks.maskset import MaskSet
    from patch_compile.artifacts.command_results import (
        CompareReport,
        CompiledAnswer,
        ImportedAnswer,
        LearnedAnswer,
    )
    from patch_compile.artifacts.plan import Plan
    from patch_compile.artifacts.plan_of_model import PlanOfModel
    from patch_compile.artifacts.report import Report
    from patch_compile.artifacts.verify import VerifyReport
    from patch_compile.inspection import Inspection
    from patch_compile.report.section import Section
    from patch_compile.report.terminal import Sections
    from patch_compile.runtime import Generator
    from patch_compile.runtime.run import Continuations


@dataclass(frozen=True, repr=False)
class Result:
    """Result of a function of the library.

    report: all findings, as `--json` prints them; path: the folder or file that was read or written.
    """

    report: Any
    path: Path = Path()

    def summary(self) -> str:
        """Returns a one-line description of the result."""
        from patch_compile.report.result import told

        return told(self.report, self.path)[0]

    def sections(self, *, every: bool = False) -> Iterator[Section]:
        """Yield what the command prints. every: name all linears and tensors, instead of counting equal entries."""
        from patch_compile.report.result import told

        return told(self.report, self.path, every=every)[1]

    def json(self) -> str:
        """Returns the report as the JSON text that `--json` prints."""
        report = self.report if isinstance(self.report, dict) else self.report.as_json()
        return json.dumps(report, indent=1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary()}>"

    def __rich__(self) -> Sections:
        from patch_compile.report.terminal import Sections

        return Sections(self.sections())

    def _repr_html_(self) -> str:
        return self.__rich__().html()


class FinishedBuild(Result):
    """A finished build in the folder `path`."""

    report: Report

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights."""
        return self.report.ratio

    @property
    def perplexity(self) -> float | None:
        """Perplexity of the hybrid model; None for a model that does not predict next tokens."""
        from patch_compile.artifacts.report import DecoderReport

        return self.report.perplexity.pruned if isinstance(self.report, DecoderReport) else None

    @property
    def plan(self) -> Plan:
        """The plan, read from OUT: how each linear is compiled, and the predicted speed."""
        from patch_compile.artifacts.plan import Plan

        return Plan.read(self.path / PLAN)

    @property
    def masks(self) -> MaskSet:
        """The masks, read from OUT."""
        return _masks(self.path)

    def generator(self) -> Generator:
        """Load the model for generation: its engine if this machine can run it, else its ONNX file."""
        from patch_compile.runtime import open_generator

        return open_generator(self.path)


class LearnedMasks(Result):
    """Learned masks and the pruned model, in the folder `path`."""

    report: LearnedAnswer

    @property
    def mask(self) -> Path:
        """The file of masks, for `build(model, mask=…)`."""
        return self.path / MASKS

    @property
    def masks(self) -> MaskSet:
        """The masks, read from OUT."""
        return _masks(self.path)

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights."""
        return self.report.ratio


class Planned(Result):
    """Predicted plan of a build: how each linear would be compiled, and the speed of the model."""

    report: PlanOfModel

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights."""
        return self.report.ratio

    @property
    def speedup(self) -> float | None:
        """Predicted time of the dense model / predicted time of the hybrid model, for the whole workload; None if unknown,
        or if the model does not fit on the card."""
        whole = self.report.whole
        return whole.end_to_end.speedup if whole and self.report.memory.fits else None


class Compiled(Result):
    """A hybrid ONNX file in the folder `path`."""

    report: CompiledAnswer

    @property
    def onnx(self) -> Path:
        return Path(self.report.onnx.path)


class Verified(Result):
    """Results of the checks of the build in the folder `path`."""

    report: VerifyReport

    @property
    def passed(self) -> bool:
        """False if a check failed, or a question that was asked has no answer."""
        return self.report.passed


class Compared(Result):
    """Comparison of builds of one model."""

    report: CompareReport


class ImportedMasks(Result):
    """A file of masks that was converted from published masks."""

    report: ImportedAnswer

    @property
    def mask(self) -> Path:
        """The file of masks, for `build(model, mask=…)`."""
        return self.path


class Inspected(Result):
    """Description of a file or folder."""

    report: Inspection

    @property
    def faults(self) -> tuple[str, ...]:
        """The damage that was found; empty for an intact file."""
        return tuple(self.report.faults)


class Generated(Result):
    """Continuations of prompts, with tokens and times."""

    report: Continuations

    @property
    def texts(self) -> tuple[str, ...]:
        """The continuation of each prompt."""
        return tuple(completion.text for completion in self.report.completions)

    def json(self) -> str:
        """Returns the report as the JSON text that `--json` prints. Characters stay as they are unless a terminal would
        obey them."""
        return json_printable(json.dumps(self.report.as_json(), indent=1, ensure_ascii=False))


def _masks(out: Path) -> MaskSet:
    from masklearn.masks.maskset import MaskSet

    return MaskSet.load(out / MASKS)
