"""bench.json: times of a build's hybrid model, of the dense model, and of a uniform 2:4 model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field

from patch_compile.artifacts.layout import BENCH
from patch_compile.artifacts.prediction import Calibration, PhaseRow
from patch_compile.artifacts.record import FileRecord, Record, Seconds, Unit, shown


class Contender(StrEnum):
    """Models that are timed."""

    DENSE = "dense"
    HYBRID = "hybrid"
    UNIFORM = "uniform-2:4"

    @property
    def folder(self) -> str:
        return self.value.replace(":", "-")


class Phase(StrEnum):
    """Phases. PREFILL reads prompts, DECODE appends a token to each; WHOLE runs a model without such phases."""

    PREFILL = "prefill"
    DECODE = "decode"
    WHOLE = "whole"


class Library(StrEnum):
    """Libraries that run the engines."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def words(self) -> str:
        return "TensorRT" if self is Library.TENSORRT else "TensorRT-RTX"


class Timed(Record):
    """Milliseconds of one model at one size: median, 10th and 90th percentile of its runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    def __float__(self) -> float:
        return self.median_ms

    @property
    def spread(self) -> float:
        """Range of the middle 80 % of the runs, over the median."""
        return (self.p90_ms - self.p10_ms) / self.median_ms if self.median_ms else 0.0


class BenchRow(Record):
    """Times at one size.

    tokens: tokens of each prompt, or before the decode step; None for a whole run. speedup: dense over hybrid time.
    """

    phase: Annotated[Phase, shown("phase", Unit.WORDS)]
    batch: Annotated[int, shown("batch")]
    tokens: Annotated[int | None, shown("tokens")]
    dense: Annotated[Timed | None, shown(Contender.DENSE, Unit.MILLISECONDS)]
    hybrid: Annotated[Timed, shown(Contender.HYBRID, Unit.MILLISECONDS)]
    uniform: Annotated[Timed | None, shown(Contender.UNIFORM, Unit.MILLISECONDS)] = Field(
        validation_alias=AliasChoices("uniform-2:4", "uniform"), serialization_alias="uniform-2:4"
    )
    speedup: Annotated[float | None, shown("speed-up", Unit.TIMES)]
    speedup_p10_p90: tuple[float, float] | None
    limit: Annotated[float | None, shown("limit", Unit.TIMES)]
    predicted: PhaseRow | None

    def of(self, which: Contender) -> Timed | None:
        """Returns the times of a model, or None if it was not timed."""
        return {
            Contender.DENSE: self.dense,
            Contender.HYBRID: self.hybrid,
            Contender.UNIFORM: self.uniform,
        }[which]


class TimedOn(Record):
    """The GPU that the engines were timed on. backend_version: version of the library that ran them."""

    name: str
    backend_version: str
    compute_capability: str | None = None
    driver: str | None = None


class SlowedBy(StrEnum):
    """Reasons that hold a GPU's clocks down."""

    POWER_LIMIT = "power-limit"
    HARDWARE = "hardware"
    TEMPERATURE = "temperature"
    POWER_SUPPLY = "power-supply"


class ClockSample(Record):
    """A GPU at one moment. slowed: the reasons that held its clocks down."""

    sm_mhz: float
    memory_mhz: float
    watts: float
    celsius: float
    slowed: tuple[SlowedBy, ...] = ()


class Spread(Record):
    """Range and median of one quantity's samples."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        low, high = f"{self.min:.0f}", f"{self.max:.0f}"
        return low if low == high else f"{low} … {high}"


class ClockRanges(Record):
    """Ranges of clocks, power and temperature during the timing."""

    sm_mhz: Annotated[Spread, shown("SM clock", Unit.MEGAHERTZ)]
    memory_mhz: Annotated[Spread, shown("memory clock", Unit.MEGAHERTZ)]
    watts: Annotated[Spread, shown("power", Unit.WATTS)]
    celsius: Annotated[Spread, shown("temperature", Unit.CELSIUS)]


class Clocks(Record):
    """A GPU before, during and after the timing. during: None if no sample was taken."""

    before: ClockSample
    during: ClockRanges | None
    after: ClockSample
    samples: int
    slowed: tuple[SlowedBy, ...]


class Calibrated(Record):
    """The calibration that was fitted to the times, and the path of its file."""

    path: str
    measured: Calibration


class BenchReport(FileRecord):
    """bench.json.

    runner: the library that ran the engines; bytes: bytes of each engine; notes: remarks of the run.
    """

    SCHEMA: ClassVar[int] = 2
    WHAT: ClassVar[str] = "the times of a benchmark"
    PLACE: ClassVar[str] = BENCH

    date: str
    versions: dict[str, str]
    runner: Library
    device: TimedOn
    clocks: Clocks | None
    rows: tuple[BenchRow, ...]
    bytes: dict[Contender, int | None]
    notes: tuple[str, ...]
    seconds: dict[str, Seconds]
    calibration: Calibrated | None = None

    @property
    def models(self) -> tuple[Contender, ...]:
        return tuple(which for which in Contender if any(row.of(which) for row in self.rows))

    @classmethod
    def made_by(cls, out: Path) -> str:
        return f"patch-compile bench {out} --force"
