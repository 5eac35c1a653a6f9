"""bench.json as `bench` writes it with all options."""

from patch_compile.artifacts.bench import (
    BenchReport,
    BenchRow,
    ClockRanges,
    Clocks,
    ClockSample,
    Contender,
    Library,
    Phase,
    Spread,
    Timed,
    TimedOn,
)
from tests.artifacts.examples import phase_row


def benched() -> BenchReport:
    """Content of bench.json of a decoder."""

    def timed(median: float) -> Timed:
        return Timed(median_ms=median, p10_ms=median * 0.98, p90_ms=median * 1.07, runs=50)

    def row(phase: Phase, batch: int, dense: float, hybrid: float, uniform: float, limit: float) -> BenchRow:
        speedup = dense / hybrid
        planned = hybrid * 0.95
        predicted = phase_row(dense, planned, limit)
        return BenchRow(
            phase=phase,
            batch=batch,
            tokens=128,
            dense=timed(dense),
            hybrid=timed(hybrid),
            uniform=timed(uniform),
            speedup=speedup,
            speedup_p10_p90=(speedup * 0.97, speedup * 1.03),
            limit=limit,
            predicted=predicted,
        )

    return BenchReport(
        date="2026-11-25T18:00:00+00:00",
        versions={"patch-compile": "0.1.0"},
        runner=Library.TENSORRT,
        device=TimedOn(name="NVIDIA GeForce RTX 3090", backend_version="11.0"),
        clocks=_clocks(),
        rows=(
            row(Phase.PREFILL, 16, 10.1, 11.7, 9.4, 1.67),
            row(Phase.DECODE, 16, 1.71, 1.49, 1.31, 1.54),
            row(Phase.DECODE, 1, 1.32, 1.02, 0.97, 1.54),
        ),
        bytes={
            Contender.DENSE: 330_000_000,
            Contender.HYBRID: 229_000_000,
            Contender.UNIFORM: 201_000_000,
        },
        notes=(),
        seconds={"timing": 31.0},
    )


def _clocks() -> Clocks:
    def seen(low: float, high: float) -> Spread:
        return Spread(min=low, median=(low + high) / 2, max=high)

    sample = ClockSample(sm_mhz=1695, memory_mhz=9501, watts=290.0, celsius=60, slowed=())
    during = ClockRanges(
        sm_mhz=seen(1695, 1695), memory_mhz=seen(9501, 9501), watts=seen(281.4, 330.2), celsius=seen(61, 66)
    )
    return Clocks(before=sample, during=during, after=sample, samples=150, slowed=())
