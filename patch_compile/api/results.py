"""The results of the library, one class for each kind of work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch_compile.api.result import Result

if TYPE_CHECKING:
    from masklearn.masks.maskset import MaskSet
    from patch_compile.inspect.found import Found
    from patch_compile.out.plan import Plan, PlanOfModel
    from patch_compile.report.terminal.parts import Part
    from patch_compile.runtime import Generator
    from patch_compile.runtime.run import Continuations

__all__ = [
    "Benched",
    "Build",
    "BuiltPlugin",
    "Compared",
    "Compiled",
    "Examined",
    "Generated",
    "ImportedMasks",
    "Inspected",
    "LearnedMasks",
    "Planned",
    "Verified",
]

Row = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Build(Result):
    """A finished build."""

    report: Row

    @property
    def path(self) -> Path:
        """OUT, the folder of the build."""
        return Path(self.report["path"]).parent

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights that was reached."""
        return float(self.report["ratio"]["reached"])

    @property
    def perplexity(self) -> float | None:
        """Perplexity of the hybrid model; None for a model that predicts no next token."""
        from patch_compile.out.report import Kind

        return float(self.report["perplexity"]["hybrid"]) if self.report["kind"] == Kind.DECODER else None

    @property
    def plan(self) -> Plan:
        """How each linear was compiled, and the speed that is predicted."""
        from patch_compile.out.layout import PLAN
        from patch_compile.out.plan import Plan

        return Plan.read(self.path / PLAN)

    @property
    def masks(self) -> MaskSet:
        """The masks, read from OUT."""
        return _masks(self.path)

    def generator(self) -> Generator:
        """Load the model, ready to generate: its engine where this machine can run it, else its ONNX file."""
        from patch_compile.runtime import open_generator

        return open_generator(self.path)

    def summary(self) -> str:
        """Say where it is, its ratio and its perplexity."""
        perplexity = self.report.get("perplexity")
        quality = f", perplexity {perplexity['dense']:.2f} → {perplexity['hybrid']:.2f}" if perplexity else ""
        return f"{self.path}, ratio {self.ratio:.3f}{quality}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile build` prints."""
        from patch_compile.report.terminal.console import build_parts

        return build_parts(self.report)


@dataclass(frozen=True, repr=False)
class LearnedMasks(Result):
    """Masks, and the pruned model beside them."""

    report: Row

    @property
    def path(self) -> Path:
        """OUT, the folder of masks and model."""
        return Path(self.report["path"])

    @property
    def mask(self) -> Path:
        """The file of masks, as `build(model, mask=…)` takes it."""
        from patch_compile.out.layout import MASKS

        return self.path / MASKS

    @property
    def masks(self) -> MaskSet:
        """The masks, read from OUT."""
        return _masks(self.path)

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights that was reached."""
        return float(self.report["ratio"]["reached"])

    def summary(self) -> str:
        """Say where they are, their ratio and their method."""
        return f"{self.path}, ratio {self.ratio:.3f} by {self.report['method']}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile learn` prints."""
        from patch_compile.report.terminal.console import masks_parts

        return masks_parts(self.report)


@dataclass(frozen=True, repr=False)
class Planned(Result):
    """How each linear would be compiled, and how fast the model would be."""

    report: PlanOfModel

    @property
    def ratio(self) -> float:
        """Zeroed weights / weights."""
        return self.report.ratio

    @property
    def speedup(self) -> float | None:
        """Predicted time of the dense model over that of the planned one, for the whole workload; None when unknown."""
        return self.report.whole.end_to_end.speedup if self.report.whole else None

    def summary(self) -> str:
        """Say the model, its ratio, and the speed-up that is predicted."""
        speed = "" if self.speedup is None else f", {self.speedup:.2f}× as fast on {self.report.card}"
        return f"{self.report.model}, ratio {self.ratio:.3f}{speed}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile plan` prints."""
        from patch_compile.report.terminal.plan import plan_parts

        return plan_parts(self.report)


@dataclass(frozen=True, repr=False)
class Compiled(Result):
    """A hybrid ONNX file."""

    report: Row

    @property
    def path(self) -> Path:
        """OUT, the folder of the ONNX file."""
        return Path(self.report["path"])

    @property
    def onnx(self) -> Path:
        """The ONNX file."""
        return Path(self.report["onnx"]["path"])

    def summary(self) -> str:
        """Say where it is, its ratio and its size."""
        size = self.report["onnx"]["bytes"] / 1e6
        return f"{self.onnx}, ratio {self.report['ratio']['reached']:.3f}, {size:.1f} MB"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile compile` prints."""
        from patch_compile.report.terminal.console import compiled_parts

        return compiled_parts(self.report)


@dataclass(frozen=True, repr=False)
class Verified(Result):
    """Answers about a build. path: OUT."""

    report: Row
    path: Path

    @property
    def passed(self) -> bool:
        """False when a check does not hold."""
        return bool(self.report["passed"])

    def summary(self) -> str:
        """Say which build it is of, and the verdict."""
        return f"{self.path}, {'passed' if self.passed else 'FAILED'}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile verify` prints."""
        from patch_compile.report.terminal.verify import verified_parts

        return verified_parts(self.report)


@dataclass(frozen=True, repr=False)
class Benched(Result):
    """Times of a build, of the dense model and of a uniform 2:4 one, in milliseconds. path: OUT."""

    report: Row
    path: Path

    def summary(self) -> str:
        """Say which build it is of, and what ran it."""
        return f"{self.path}, {self.report['what']}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile bench` prints."""
        from patch_compile.out.layout import BENCH
        from patch_compile.report.terminal.bench import benched_parts

        return benched_parts(self.report, str(self.path / BENCH))


@dataclass(frozen=True, repr=False)
class Compared(Result):
    """Builds of one model side by side."""

    report: Row

    @property
    def pareto(self) -> tuple[str, ...]:
        """Names of the builds that no other one beats."""
        return tuple(self.report["pareto"])

    def summary(self) -> str:
        """Say which builds no other one beats."""
        return f"{len(self.report['builds'])} builds, not beaten: {', '.join(self.pareto) or 'none'}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile compare` prints."""
        from patch_compile.report.terminal.compare import compared_parts

        return compared_parts(self.report)


@dataclass(frozen=True, repr=False)
class ImportedMasks(Result):
    """A file of masks that was made of masks that others published."""

    report: Row

    @property
    def mask(self) -> Path:
        """The file of masks, as `build(model, mask=…)` takes it."""
        return Path(self.report["path"])

    def summary(self) -> str:
        """Say where they are, their ratio, and what they were."""
        return f"{self.mask}, ratio {self.report['ratio']:.3f} from {self.report['format']}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile import-mask` prints."""
        from patch_compile.report.terminal.console import import_parts

        return import_parts(self.report)


@dataclass(frozen=True, repr=False)
class Inspected(Result):
    """What a file or folder is."""

    report: Found

    @property
    def faults(self) -> tuple[str, ...]:
        """What is broken, empty for a whole file."""
        return tuple(self.report.faults)

    def summary(self) -> str:
        """Say what it is, and how many faults it has."""
        faults = f", {len(self.faults)} faults" if self.faults else ""
        return f"{self.report.path}: {self.report.kind}{faults}"

    def parts(self, *, every: bool = False) -> Iterator[Part]:
        """Yield what `patch-compile inspect` prints; every: a line for each tensor or linear."""
        from patch_compile.report.terminal.inspect import found_parts

        return found_parts(self.report, every=every)


@dataclass(frozen=True, repr=False)
class Examined(Result):
    """What this machine can do."""

    report: Row

    def summary(self) -> str:
        """Say what it can do."""
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
        """The library."""
        return Path(self.report["path"])

    def summary(self) -> str:
        """Say where it is and what it is for."""
        return f"{self.path} for {self.report['backend']}"

    def parts(self) -> Iterator[Part]:
        """Yield what `patch-compile plugin` prints."""
        from patch_compile.report.terminal.console import plugin_parts

        return plugin_parts(self.report)


@dataclass(frozen=True, repr=False)
class Generated(Result):
    """Texts, tokens and times."""

    report: Continuations

    @property
    def texts(self) -> tuple[str, ...]:
        """The continuation of each prompt."""
        return tuple(one.text for one in self.report.completions)

    def summary(self) -> str:
        """Say how many prompts were continued, and by what."""
        return f"{len(self.texts)} continued by {self.report.runner}"

    def parts(self) -> Iterator[Part]:
        """Yield each text under its prompt, and the times."""
        from patch_compile.report.terminal.run import generated_parts

        return generated_parts(self.report)

    def json(self) -> str:
        """The report as `--json` prints it, texts as they are."""
        return json.dumps(self.report.as_json(), indent=1, ensure_ascii=False)


def _masks(out: Path) -> MaskSet:
    from masklearn.masks.maskset import MaskSet
    from patch_compile.out.layout import MASKS

    return MaskSet.load(out / MASKS)
