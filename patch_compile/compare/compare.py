"""The command `compare`: several OUTs of one model → a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patch_compile.compare.axis import Against, Axis, axis_of
from patch_compile.compare.builds import Build, read_builds
from patch_compile.compare.comparable import check_comparable, why_not_predicted
from patch_compile.compare.measured import Measured, measured_speeds
from patch_compile.compare.pareto import DENSE, Spot, beaten_by
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.out.workspace import write_json

__all__ = ["compare"]

_SCHEMA = 1
_PHASES = ("end_to_end", "prefill", "decode")
_PICTURE = ".svg"
# Suffixes of pictures that it can't draw; any other name is a folder's.
_NOT_DRAWN = (".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp", ".html")
_NAME = "compare"


def compare(
    paths: Sequence[Path], out: Path | None = None, against: Against = Against.RATIO, *, force: bool = False
) -> dict[str, Any]:
    """Compare builds, and draw their quality against an axis.

    out: a picture (.svg), or a folder for the picture and the table as JSON; None draws nothing. against: kind of the
    axis. Raises PatchCompileError for builds that can't be compared, with the reason, and for existing files
    unless `force`.
    """
    files = _files(out, force)
    builds = read_builds(paths)
    check_comparable(builds)
    measured = measured_speeds(builds)
    axis = axis_of(against, builds, measured)
    beaten = _beaten(builds, axis)
    result = _result(builds, axis, measured, beaten) | {
        "x": str(against),
        "files": [str(file) for file in files],
    }
    if files:
        _write(files, builds, axis, beaten, result)
    return result


def _beaten(builds: Sequence[Build], axis: Axis) -> dict[str, str | None]:
    """Returns the name of the build that beats each build, None for a Pareto point. The dense model takes part."""
    spots = [Spot(b.name, axis.gain(axis.values[b.name]), b.quality.value) for b in builds]
    return beaten_by([Spot(DENSE, axis.gain(axis.dense), builds[0].quality.dense), *spots])


def _result(
    builds: Sequence[Build], axis: Axis, measured: Measured, beaten: Mapping[str, str | None]
) -> dict[str, Any]:
    unpredicted, first = why_not_predicted(builds), builds[0]
    return {
        "schema": _SCHEMA,
        "model": {"path": first.model, "sha256": first.sha256},
        "quality": {"what": first.quality.what, "on": first.quality.on, "dense": first.quality.dense},
        "predicted_for": "" if unpredicted else first.predicted_for,
        "measured": {
            "where": measured.where,
            "sizes": {phase: {"batch": b, "tokens": t} for phase, (b, t) in measured.sizes.items()},
        },
        "builds": [
            _row(build, measured, predicted=not unpredicted)
            | {"at": axis.values[build.name], "beaten_by": beaten[build.name]}
            for build in builds
        ],
        "dense_bytes": first.dense_bytes,
        "dense_at": axis.dense,
        "against": axis.what,
        "pareto": [build.name for build in builds if not beaten[build.name]],
        "notes": [
            *filter(None, [unpredicted and f"predicted speeds are left out: {unpredicted}"]),
            *measured.notes,
        ],
    }


def _row(build: Build, measured: Measured, *, predicted: bool) -> dict[str, Any]:
    return {
        "name": build.name,
        "path": str(build.path),
        "method": build.method,
        "ratio": build.ratio,
        "quality": build.quality.value,
        "increase": build.quality.increase,
        "bytes": build.nbytes,
        "predicted": {phase: build.predicted(phase) for phase in _PHASES} if predicted else None,
        "measured": {p: speeds[build.name] for p, speeds in measured.speeds.items() if build.name in speeds},
    }


def _files(out: Path | None, force: bool) -> list[Path]:
    """Returns the files to write. Raises PatchCompileError if they can't be written."""
    if out is None:
        return []
    if out.suffix == _PICTURE:
        files = [out]
    elif out.suffix in _NOT_DRAWN:
        raise UsageError(
            f"{out} is no kind of picture that is drawn",
            f"It ends with {out.suffix}.",
            "Name an .svg, or a folder.",
        )
    else:
        files = [out / f"{_NAME}{suffix}" for suffix in (_PICTURE, ".json")]
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise PatchCompileError(
            f"{', '.join(there)} exists", "It is not overwritten unasked.", "Use --force, or another -o."
        )
    return files


def _write(
    files: Sequence[Path],
    builds: Sequence[Build],
    axis: Axis,
    beaten: Mapping[str, str | None],
    result: Mapping[str, Any],
) -> None:
    from patch_compile.compare.picture import draw

    files[0].parent.mkdir(parents=True, exist_ok=True)
    picture, *tables = files
    draw(builds, axis, beaten, picture)
    for table in tables:
        write_json(table, result)
