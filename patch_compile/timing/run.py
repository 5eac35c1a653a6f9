"""The command `bench`: OUT → OUT/bench/bench.json, with the clocks of the GPU while it ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from patch_compile.artifacts.bench import (
    BenchReport,
    BenchRow,
    Calibrated,
    ClockRanges,
    Clocks,
    ClockSample,
    Contender,
    Spread,
)
from patch_compile.artifacts.folder import OutFolder, kept_for_writing
from patch_compile.artifacts.layout import BENCH, BENCH_FOLDER, REPORT
from patch_compile.artifacts.manifest import package_versions
from patch_compile.artifacts.prediction import Calibration
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.progress import Progress, quiet_libraries
from patch_compile.report.page.write import renew_page
from patch_compile.sources.open import source_of
from patch_compile.timing.device import Place, find_place
from patch_compile.timing.models import engine_files
from patch_compile.timing.points import MakeFeed, Point
from patch_compile.timing.predicted import calibrate, check_calibration, costs_of_build
from patch_compile.timing.request import BenchRequest
from patch_compile.timing.timed_build import Subject, check_memory
from patch_compile.timing.timing import TimedModel, TurnTimes, take_turns


class Watch:
    """Samples of the GPU's clocks before, during and after the timing. read: takes one sample."""

    def __init__(self, read: Callable[[], ClockSample]) -> None:
        self._read = read
        self._before = read()
        self._during: list[ClockSample] = []

    def look(self) -> None:
        """Take a sample while the GPU is busy, or just after."""
        self._during.append(self._read())

    def clocks(self) -> Clocks:
        """Returns a summary of all samples, and a last sample taken now."""
        return Clocks(
            before=self._before,
            during=_ranges(self._during) if self._during else None,
            after=self._read(),
            samples=len(self._during),
            slowed=tuple(dict.fromkeys(reason for sample in self._during for reason in sample.slowed)),
        )


def bench(path: Path, asked: BenchRequest, *, force: bool = False) -> BenchReport:
    """Time the models of OUT in turns, write bench.json and return its content.

    With `asked.calibrate` it fits the card to the times, for later plans. Raises PatchCompileError if OUT is damaged,
    was timed before, or another process writes into it, and if this machine can't run the engines or hold them in memory
    together.
    """
    with kept_for_writing(path):
        progress = Progress()
        quiet_libraries()
        out = OutFolder.open(path)
        _check_new(out, force)
        place = find_place(out, progress, trust=asked.trust)
        subject = Subject(out, source_of(out), asked)
        if asked.calibrate:
            check_calibration(place, subject.source)
        feeds = subject.feeds()
        if place.nvml:
            check_memory(subject.engine_bytes(), place.nvml.free_bytes, len(asked.models))
        out.forget(BENCH_FOLDER, BENCH_FOLDER)
        report = _Contest(subject, place, progress).run(feeds)
        _keep(out, subject, report)
        if asked.calibrate:
            # `check_calibration` has checked both.
            assert subject.planned is not None and place.card is not None
            measured = calibrate(report, subject.planned, place.card, subject.name)
            fitted = Calibrated(path=str(measured.save()), measured=Calibration(**dict(measured)))
            report = report.model_copy(update={"calibration": fitted})
            _keep(out, subject, report)
        return report


@dataclass(frozen=True)
class _Contest:
    subject: Subject
    place: Place
    progress: Progress

    def run(self, feeds: Mapping[Point, MakeFeed]) -> BenchReport:
        """Build the engines, load them and time them. Returns the content of bench.json."""
        subject, progress = self.subject, self.progress
        costs = costs_of_build(subject.out)
        making = engine_files(subject.asked.models, subject.out, subject.source, costs, progress)
        with ExitStack() as stack:
            files = stack.enter_context(making)
            nbytes = {which: file.stat().st_size for which, file in files.items()}
            with progress.stage("loading"):
                runners: dict[str, TimedModel] = {
                    which: stack.enter_context(closing(self.place.open(which, file)))
                    for which, file in files.items()
                }
            takes = self._taken(runners, feeds)
            watch = Watch(self.place.nvml.sample) if self.place.nvml else None
            rows = self._rows(runners, takes, watch)
            clocks = watch.clocks() if watch else None
        return BenchReport(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=package_versions(),
            runner=self.place.library,
            device=self.place.device,
            clocks=clocks,
            rows=tuple(rows),
            bytes={which: nbytes.get(which) for which in Contender},
            notes=tuple(progress.notes),
            seconds=progress.seconds,
        )

    def _taken(
        self, runners: Mapping[str, TimedModel], feeds: Mapping[Point, MakeFeed]
    ) -> dict[Point, MakeFeed]:
        """Returns the points that every model takes, and notes the others.

        Raises PatchCompileError if a model refuses a point that the user asked for, and if no point is left.
        """
        taken = dict(feeds)
        for point, make in feeds.items():
            why = next(
                (f"{name}: {no}" for name, runner in runners.items() if (no := runner.refuses(make))), ""
            )
            if why and (any(self.subject.asked.sizes) or len(taken) == 1):
                raise PatchCompileError(
                    f"The point {point} can't be timed",
                    sentence(why),
                    "Give smaller sizes, or build with larger `--max-shapes`.",
                )
            if why:
                self.progress.note(f"not timed: {point}: {why}")
                del taken[point]
        return taken

    def _rows(
        self, runners: Mapping[str, TimedModel], feeds: Mapping[Point, MakeFeed], watch: Watch | None
    ) -> list[BenchRow]:
        asked, rows = self.subject.asked, []
        with self.progress.stage("timing") as update:
            for done, (point, make) in enumerate(feeds.items()):
                update(str(point), done, len(feeds))
                look = watch.look if watch else lambda: None
                times = take_turns(
                    runners,
                    make,
                    point.phase,
                    iterations=asked.iterations,
                    warm_up=asked.warm_up,
                    after_round=look,
                )
                rows.append(self._row(point, times))
        return rows

    def _row(self, point: Point, times: Mapping[str, TurnTimes]) -> BenchRow:
        dense, hybrid = times.get(Contender.DENSE), times[Contender.HYBRID]
        uniform = times.get(Contender.UNIFORM)
        planned, card = self.subject.planned, self.place.card
        predicted = planned.at(point, card) if planned and card else None
        return BenchRow(
            phase=point.phase,
            batch=point.batch,
            tokens=point.tokens,
            dense=dense.row() if dense else None,
            hybrid=hybrid.row(),
            uniform=uniform.row() if uniform else None,
            speedup=dense.median / hybrid.median if dense else None,
            speedup_p10_p90=dense.over(hybrid) if dense else None,
            limit=predicted.limit if predicted else None,
            predicted=predicted,
        )


def _check_new(out: OutFolder, force: bool) -> None:
    if (out.path / BENCH).exists() and not force:
        raise PatchCompileError(
            f"{out.path / BENCH} exists", "The build was timed before.", "Time it again with `--force`."
        )
    out.check_replaceable(BENCH_FOLDER)


def _keep(out: OutFolder, subject: Subject, report: BenchReport) -> None:
    """Write bench.json, renew the page that shows it, and record both in the manifest."""
    out.forget(BENCH_FOLDER, BENCH_FOLDER)
    report.write(out.path / BENCH)
    out.record(BENCH_FOLDER, key_of(subject.asked.model_dump(mode="json"), report.date), [BENCH])
    if (out.path / REPORT).is_file():  # `compile` writes no page
        renew_page(out.path)


def _ranges(samples: list[ClockSample]) -> ClockRanges:
    def spread(name: str) -> Spread:
        values = [getattr(sample, name) for sample in samples]
        return Spread(min=min(values), median=median(values), max=max(values))

    return ClockRanges(**{name: spread(name) for name in ClockRanges.model_fields})
