"""bench.json: times of a build's hybrid model, of the dense model, and of a uniform 2:4 model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from patch_compile.out.layout import BENCH
from patch_compile.out.plan import Calibration, PhaseRow
from patch_compile.out.record import FileRecord, Record

__all__ = ["BenchReport", "BenchRow", "Calibrated", "ClockSample", "Clocks", "Spread", "Timed", "TimedOn"]


class Timed(Record):
    """Milliseconds of one model at one size: median, 10th and 90th percentile of its runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


class BenchRow(Record):
    """Times at one size.

    tokens: tokens of each prompt, or before the decode step; None for a whole run. speedup: dense over hybrid time.
    """

    phase: Literal["prefill", "decode", "whole"]
    batch: int
    tokens: int | None
    dense: Timed | None
    hybrid: Timed
    uniform: Timed | None = Field(alias="uniform-2:4")
    speedup: float | None
    speedup_p10_p90: tuple[float, float] | None
    limit: float | None
    predicted: PhaseRow | None


class TimedOn(Record):
    """The device that the models were timed on: a GPU, with the version of the library that ran them, or a CPU."""

    name: str
    backend_version: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None


class ClockSample(Record):
    """A GPU at one moment. slowed: the reasons that held its clocks down, in words."""

    sm_mhz: float
    memory_mhz: float
    watts: float
    celsius: float
    slowed: tuple[str, ...]


class Spread(Record):
    """Range and median of the samples of one quantity."""

    min: float
    median: float
    max: float


class Clocks(Record):
    """A GPU before, during and after the timing. A spread is None if no sample was taken."""

    before: ClockSample
    during: dict[str, Spread | None]
    after: ClockSample
    samples: int
    slowed: tuple[str, ...]


class Calibrated(Record):
    """The calibration that was fitted to the times, and the path of its file."""

    path: str
    measured: Calibration


class BenchReport(FileRecord):
    """bench.json.

    runner: the library that ran the models; what: the form of the models, in words; bytes: bytes of each model's file.
    """

    SCHEMA: ClassVar[int] = 1
    WHAT: ClassVar[str] = "the times of a benchmark"
    PLACE: ClassVar[str] = BENCH

    date: str
    versions: dict[str, str]
    runner: str
    what: str
    device: TimedOn
    clocks: Clocks | None
    rows: tuple[BenchRow, ...]
    bytes: dict[str, int | None]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    calibration: Calibrated | None = None

    @classmethod
    def made_by(cls, out: Path) -> str:
        """Returns the command that times the build again."""
        return f"patch-compile bench {out} --force"
