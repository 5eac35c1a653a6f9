"""The command `compare`: several OUTs of one model → a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patch_compile.artifacts.bench import Phase
from patch_compile.artifacts.compare import (
    DENSE,
    Against,
    BuildRow,
    ComparedAxis,
    CompareReport,
)
from patch_compile.artifacts.record import write_json
from patch_compile.comparison.builds import ComparedBuild, read_builds
from patch_compile.comparison.comparable import (
    Measured,
    check_comparable,
    measured_speeds,
    why_not_predicted,
)
from patch_compile.errors import PatchCompileError, UsageError, sentence
from patch_compile.report.compare import Spot, beaten_by, left_out_words

# In order of preference: the first phase that all builds were timed in.
_MEASURED = (Phase.DECODE, Phase.PREFILL, Phase.WHOLE)


@dataclass(frozen=True)
class _BuildsOnAxis:
    """The axis, and the value of each build on it, by the build's name."""

    axis: ComparedAxis
    values: Mapping[str, float]

    def gain(self, value: float) -> float:
        """Returns the gain of a value: more is better.

        Values are rounded, so that values that differ by a tile, or by less than the table shows, have equal gains.
        """
        return round(self.axis.against.sign * value, self.axis.against.digits)


_PICTURE = ".svg"
# Suffixes of pictures that it can't draw; any other name is a folder's.
_NOT_DRAWN = (".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp", ".html")
_NAME = "compare"


def compare(
    paths: Sequence[Path], out: Path | None = None, against: Against = Against.RATIO, *, force: bool = False
) -> CompareReport:
    """Compare builds, and draw their quality against an axis.

    out: a picture (.svg), or a folder for the picture and the table as JSON; None draws nothing. against: kind of the
    axis. Raises PatchCompileError for builds that can't be compared, with the reason, and for existing files
    unless `force`.
    """
    files = _files(out, force)
    builds = read_builds(paths)
    check_comparable(builds)
    report = _report(builds, against, files)
    if files:
        _write(files, report)
    return report


def _report(builds: Sequence[ComparedBuild], against: Against, files: Sequence[Path]) -> CompareReport:
    first, unpredicted, measured = builds[0], why_not_predicted(builds), measured_speeds(builds)
    placed = _place_on_axis(against, builds, measured)
    beaten = _beaten(builds, placed)
    rows = [_row(build, measured, placed, beaten, predicted=not unpredicted) for build in builds]
    return CompareReport(
        model=first.model,
        quality=first.quality,
        axis=placed.axis,
        predicted_for=None if unpredicted else first.predicted_for,
        measured=measured.shared,
        builds=tuple(rows),
        dense_bytes=first.dense_bytes,
        dense_beaten_by=beaten[DENSE],
        pareto=tuple(build.name for build in builds if not beaten[build.name]),
        left_out=(*([unpredicted] if unpredicted else []), *measured.left_out),
        files=tuple(map(str, files)),
    )


def _beaten(builds: Sequence[ComparedBuild], placed: _BuildsOnAxis) -> dict[str, str | None]:
    """Returns the name of the build that beats each build, None for a Pareto point. The dense model takes part."""
    spots = [Spot(b.name, placed.gain(placed.values[b.name]), b.figures.quality) for b in builds]
    return beaten_by([Spot(DENSE, placed.gain(placed.axis.dense), builds[0].quality.dense), *spots])


def _row(
    build: ComparedBuild,
    measured: Measured,
    placed: _BuildsOnAxis,
    beaten: Mapping[str, str | None],
    *,
    predicted: bool,
) -> BuildRow:
    return BuildRow(
        **dict(build.figures) | ({} if predicted else {"predicted": None}),
        measured={p: speeds[build.name] for p, speeds in measured.speeds.items() if build.name in speeds},
        at=placed.values[build.name],
        beaten_by=beaten[build.name],
    )


def _files(out: Path | None, force: bool) -> list[Path]:
    """Returns the files to write. Raises PatchCompileError if they can't be written."""
    if out is None:
        return []
    if out.suffix == _PICTURE:
        files = [out]
    elif out.suffix in _NOT_DRAWN:
        raise UsageError(
            f"{out} is not a kind of picture that is drawn",
            f"It ends with {out.suffix}.",
            "Name an `.svg` file, or a folder.",
        )
    else:
        files = [out / f"{_NAME}{suffix}" for suffix in (_PICTURE, ".json")]
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise PatchCompileError(
            f"The curves would replace {', '.join(there)}",
            "Files are not overwritten unasked.",
            "Use `--force`, or another `-o`.",
        )
    return files


def _write(files: Sequence[Path], report: CompareReport) -> None:
    from patch_compile.report.curve import draw

    files[0].parent.mkdir(parents=True, exist_ok=True)
    picture, *tables = files
    draw(report, picture)
    for table in tables:
        write_json(table, report.as_json())


def _place_on_axis(against: Against, builds: Sequence[ComparedBuild], measured: Measured) -> _BuildsOnAxis:
    """Returns the axis of a kind. Raises PatchCompileError for a speed that is not known for all builds."""
    if against is Against.RATIO:
        return _on(against, 0.0, {build.name: build.figures.ratio for build in builds})
    if against is Against.BYTES:
        values = {build.name: build.figures.bytes / 1e6 for build in builds}
        return _on(against, builds[0].dense_bytes / 1e6, values)
    for phase in _MEASURED:
        if measured.of_all(phase, builds):
            return _on(against, 1.0, measured.speeds[phase], phase)
    if why := why_not_predicted(builds):
        raise PatchCompileError(
            "The builds have no speed in common",
            sentence(left_out_words(why)),
            "Choose `--x ratio` or `--x bytes`, or time all: `patch-compile bench`.",
        )
    predicted = {build.name: build.figures.predicted for build in builds}
    speeds = {name: found.end_to_end for name, found in predicted.items() if found}
    return _on(against, 1.0, speeds)


def _on(
    against: Against, dense: float, values: Mapping[str, float], phase: Phase | None = None
) -> _BuildsOnAxis:
    return _BuildsOnAxis(ComparedAxis(against=against, phase=phase, dense=dense), values)
