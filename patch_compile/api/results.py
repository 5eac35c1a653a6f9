"""What the functions of the library return: the report of the work, and what can be done with its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masklearn.masks.maskset import MaskSet
    from patch_compile.inspect.found import Found
    from patch_compile.out.plan import PlanOfModel
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


@dataclass(frozen=True)
class Build:
    """A finished build."""

    report: dict[str, Any]

    @property
    def path(self) -> Path:
        """OUT."""
        return Path(self.report["path"]).parent

    @property
    def perplexity(self) -> float | None:
        """Perplexity of the hybrid model; None for a model that predicts no next token."""
        return self.report["perplexity"]["hybrid"] if "perplexity" in self.report else None

    @property
    def masks(self) -> MaskSet:
        """The masks, read from OUT."""
        from masklearn.masks.maskset import MaskSet
        from patch_compile.out.layout import MASKS

        return MaskSet.load(self.path / MASKS)

    def generator(self) -> Generator:
        """Load it, ready to generate: its engine where this machine can run it, else its ONNX file."""
        from patch_compile.runtime import open_generator

        return open_generator(self.path)


@dataclass(frozen=True)
class LearnedMasks:
    """Masks, and the pruned model beside them."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """How each linear would be compiled, and how fast the model would be."""

    report: PlanOfModel


@dataclass(frozen=True)
class Compiled:
    """Hybrid ONNX."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Verified:
    """The answers about a build."""

    path: Path
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """False when a check does not hold."""
        return bool(self.report["passed"])


@dataclass(frozen=True)
class Benched:
    """Times of a build, of the dense model and of a uniform 2:4 one, in milliseconds."""

    path: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """Builds of one model side by side."""

    report: dict[str, Any]


@dataclass(frozen=True)
class ImportedMasks:
    """A MaskSet that was made of masks that others published."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Inspected:
    """What a file or folder is."""

    report: Found


@dataclass(frozen=True)
class Examined:
    """What this machine can do."""

    report: dict[str, Any]


@dataclass(frozen=True)
class BuiltPlugin:
    """The plugin's library."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Generated:
    """Texts, tokens and times."""

    report: Continuations
