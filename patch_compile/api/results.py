"""The results of the library, one class for each kind of work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.printable import json_printable
from patch_compile.api.result import Result

if TYPE_CHECKING:
    from masklearn.masks.maskset import MaskSet
    from patch_compile.artifacts.bench import BenchReport
    from patch_compile.artifacts.command_results import (
        CompiledAnswer,
        ExportedAnswer,
        ImportedAnswer,
        LearnedAnswer,
        ReducedLinear,
    )
    from patch_compile.artifacts.compare import CompareReport
    from patch_compile.artifacts.plan import Plan
    from patch_compile.artifacts.plan_of_model import PlanOfModel
    from patch_compile.artifacts.report import Report
    from patch_compile.artifacts.verify import VerifyReport
    from patch_compile.inspection import Inspection
    from patch_compile.report.terminal.parts import Part
    from patch_compile.runtime import Generator
    from patch_compile.runtime.run import Continuations

__all__ = [
    "Benched",
    "BuiltPlugin",
    "Compared",
    "Compiled",
    "Examined",
    "Exported",
    "FinishedBuild",
    "Generated",
    "ImportedMasks",
    "Inspected",
    "LearnedMasks",
    "Planned",
    "Reduced",
    "Verified",
]

Row = dict[str, Any]


@dataclass(frozen=True, repr=False)
class FinishedBuild(Result):
    """A finished build."""

    report: Report

    @property
    def path(self) -> Path:
        """OUT, the folder of the build."""
        return Path(self.report.path).parent

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights."""
        return self.report.ratio.reached

    @property
    def perplexity(self) -> float | None:
        """Perplexity of the hybrid model; None for a model that predicts no next token."""
        from patch_compile.artifacts.report import DecoderReport

        return self.report.perplexity.hybrid if isinstance(self.report, DecoderReport) else None

    @property
    def plan(self) -> Plan:
        """The plan, read from OUT: how each linear is compiled, and the predicted speed."""
        from patch_compile.artifacts.layout import PLAN
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

    def summary(self) -> str:
        """Returns the folder, the ratio and the perplexity in one line."""
        from patch_compile.artifacts.report import DecoderReport

        quality = ""
        if isinstance(self.report, DecoderReport):
            found = self.report.perplexity
            quality = f", perplexity {found.dense:.2f} → {found.hybrid:.2f}"
        return f"{self.path}, ratio {self.ratio:.3f}{quality}"

    def parts(self, *, every: bool = False) -> Iterator[Part]:
        """Yield what `patch-compile build` prints. every: name all nodes that stay dense."""
        from patch_compile.report.terminal.console import build_parts

        return build_parts(self.report, every=every)


@dataclass(frozen=True, repr=False)
class LearnedMasks(Result):
    """Learned masks, and the pruned model beside them."""

    report: LearnedAnswer

    @property
    def path(self) -> Path:
        """OUT, the folder of masks and model."""
        return Path(self.report.path)

    @property
    def mask(self) -> Path:
        """The file of masks, for `build(model, mask=…)`."""
        from patch_compile.artifacts.layout import MASKS

        return self.path / MASKS

    @property
    def masks(self) -> MaskSet:
        """The masks, read from OUT."""
        return _masks(self.path)

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights."""
        return self.report.ratio.reached

    def summary(self) -> str:
        """Returns the folder, the ratio and the method in one line."""
        return f"{self.path}, ratio {self.ratio:.3f} by {self.report.method}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile learn` prints."""
        from patch_compile.report.terminal.console import masks_parts

        return masks_parts(self.report)


@dataclass(frozen=True, repr=False)
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

    def summary(self) -> str:
        """Returns the model, its ratio and its predicted speed-up in one line."""
        speed = ", does not fit" * (not self.report.memory.fits)
        speed += "" if self.speedup is None else f", {self.speedup:.2f}× as fast on {self.report.card}"
        return f"{self.report.model}, ratio {self.ratio:.3f}{speed}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile plan` prints."""
        from patch_compile.report.terminal.plan import plan_parts

        return plan_parts(self.report)


@dataclass(frozen=True, repr=False)
class Compiled(Result):
    """A hybrid ONNX file."""

    report: CompiledAnswer

    @property
    def path(self) -> Path:
        """OUT, the folder of the ONNX file."""
        return Path(self.report.path)

    @property
    def onnx(self) -> Path:
        return Path(self.report.onnx.path)

    def summary(self) -> str:
        """Returns the file, its ratio and its size in one line."""
        size = self.report.onnx.bytes / 1e6
        return f"{self.onnx}, ratio {self.report.ratio.reached:.3f}, {size:.1f} MB"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile compile` prints."""
        from patch_compile.report.terminal.console import compiled_parts

        return compiled_parts(self.report)


@dataclass(frozen=True, repr=False)
class Verified(Result):
    """Results of the checks of a build. path: OUT."""

    report: VerifyReport
    path: Path

    @property
    def passed(self) -> bool:
        """False if a check failed, or a question that was asked has no answer."""
        return self.report.passed

    def summary(self) -> str:
        """Returns the folder and the verdict in one line."""
        from patch_compile.report.verify import outcome_words

        return f"{self.path}, {outcome_words(self.report.outcome)}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile verify` prints."""
        from patch_compile.report.terminal.verify import verified_parts

        return verified_parts(self.report, self.path)


@dataclass(frozen=True, repr=False)
class Benched(Result):
    """Times of a build, of the dense model and of a uniform 2:4 one, in milliseconds. path: OUT."""

    report: BenchReport
    path: Path

    def summary(self) -> str:
        """Returns the folder and the runner in one line."""
        from patch_compile.report.bench import timed_words

        return f"{self.path}, {timed_words(self.report)}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile bench` prints."""
        from patch_compile.artifacts.layout import BENCH
        from patch_compile.report.terminal.bench import benched_parts

        return benched_parts(self.report, str(self.path / BENCH))


@dataclass(frozen=True, repr=False)
class Compared(Result):
    """Comparison of builds of one model."""

    report: CompareReport

    @property
    def pareto(self) -> tuple[str, ...]:
        """Names of the builds that no other build beats."""
        return self.report.pareto

    def summary(self) -> str:
        """Returns the number of builds and the names of the Pareto points in one line."""
        return f"{len(self.report.builds)} builds, not beaten: {', '.join(self.pareto) or 'none'}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile compare` prints."""
        from patch_compile.report.terminal.compare import compared_parts

        return compared_parts(self.report)


@dataclass(frozen=True, repr=False)
class ImportedMasks(Result):
    """A file of masks that was converted from published masks."""

    report: ImportedAnswer

    @property
    def mask(self) -> Path:
        """The file of masks, for `build(model, mask=…)`."""
        return Path(self.report.path)

    def summary(self) -> str:
        """Returns the file, the ratio and the original format in one line."""
        return f"{self.mask}, ratio {self.report.ratio:.3f} from {self.report.format}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile import-mask` prints."""
        from patch_compile.report.terminal.console import import_parts

        return import_parts(self.report)


@dataclass(frozen=True, repr=False)
class Reduced(Result):
    """One linear of a build as a model of its own."""

    report: ReducedLinear

    @property
    def path(self) -> Path:
        """The folder that was written."""
        return Path(self.report.path)

    def summary(self) -> str:
        """Returns the folder and the error in one line."""
        return f"{self.path}, error {self.report.error}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile debug reduce` prints."""
        from patch_compile.report.terminal.console import reduced_parts

        return reduced_parts(self.report)


@dataclass(frozen=True, repr=False)
class Exported(Result):
    """A pruned checkpoint in a format that other programs read."""

    report: ExportedAnswer

    @property
    def path(self) -> Path:
        """The folder of the checkpoint."""
        return Path(self.report.path)

    def summary(self) -> str:
        """Returns the folder, the format and the size in one line."""
        return f"{self.path}, {self.report.format}, {self.report.bytes / 1e6:.1f} MB"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile export` prints."""
        from patch_compile.report.terminal.console import exported_parts

        return exported_parts(self.report)


@dataclass(frozen=True, repr=False)
class Inspected(Result):
    """Description of a file or folder."""

    report: Inspection

    @property
    def faults(self) -> tuple[str, ...]:
        """The damage that was found; empty for an intact file."""
        return tuple(self.report.faults)

    def summary(self) -> str:
        """Returns the kind of file and the number of faults in one line."""
        faults = f", {len(self.faults)} faults" if self.faults else ""
        return f"{self.report.path}: {self.report.kind}{faults}"

    def parts(self, *, every: bool = False) -> Iterator[Part]:
        """Yield the lines and tables that `patch-compile inspect` prints. every: add a line for each tensor or linear."""
        from patch_compile.report.terminal.inspect import found_parts

        return found_parts(self.report, every=every)


@dataclass(frozen=True, repr=False)
class Examined(Result):
    """Abilities of this machine."""

    report: Row

    def summary(self) -> str:
        """Returns the abilities in one line."""
        return f"can {'; '.join(self.report['can']) or 'do nothing'}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile doctor` prints."""
        from patch_compile.report.terminal.inspect import examined_parts

        return examined_parts(self.report)


@dataclass(frozen=True, repr=False)
class BuiltPlugin(Result):
    """The library that runs PatchLinear in TensorRT."""

    report: Row

    @property
    def path(self) -> Path:
        """The file of the library."""
        return Path(self.report["path"])

    def summary(self) -> str:
        """Returns the file and its backend in one line."""
        return f"{self.path} for {self.report['backend']}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile plugin` prints."""
        from patch_compile.report.terminal.console import plugin_parts

        return plugin_parts(self.report)


@dataclass(frozen=True, repr=False)
class Generated(Result):
    """Continuations of prompts, with tokens and times."""

    report: Continuations

    @property
    def texts(self) -> tuple[str, ...]:
        """The continuation of each prompt."""
        return tuple(one.text for one in self.report.completions)

    def summary(self) -> str:
        """Returns the number of continued prompts and the runner in one line."""
        return f"{len(self.texts)} continued by {self.report.runner}"

    def parts(self) -> Iterator[Part]:
        """Yield each text under its prompt, and the times."""
        from patch_compile.report.terminal.run import generated_parts

        return generated_parts(self.report)

    def json(self) -> str:
        """Returns the report as the JSON text that `--json` prints. Characters stay as they are unless a terminal would
        obey them."""
        return json_printable(json.dumps(self.report.as_json(), indent=1, ensure_ascii=False))


def _masks(out: Path) -> MaskSet:
    from masklearn.masks.maskset import MaskSet
    from patch_compile.artifacts.layout import MASKS

    return MaskSet.load(out / MASKS)
