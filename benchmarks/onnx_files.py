"""Builds from ONNX files that other people exported, and prints the outcome of each build.

    python -m benchmarks.onnx_files [--only PATTERN] [--ratio 0.3] [--cache .cache/onnx-files]

Each file is built by the command line in a process of its own, for ONNX Runtime on this CPU, with masks by magnitude and
every covered linear packed. A build compares the hybrid with the pruned model in ONNX Runtime. Packages are fetched once,
by pip, into the cache, and not installed. Exit code 1 if a file ends in another way than `onnx_packages` says: in a
traceback, a crash, or an error that is not the expected refusal.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.onnx_packages import INSTALLED, WHEELS, OnnxFile, installed_file, unpacked
from samples.models import get_model

_SECONDS = 900  # limit of one build
_HEADERS = (
    "package",
    "file",
    "exporter",
    "opset",
    "packed / linears",
    "hybrid − pruned (allowed)",
    "pruned − dense",
    "s",
    "outcome",
)


@dataclass(frozen=True)
class Case:
    """A file to build. package: name and version of its package."""

    package: str
    path: Path
    file: OnnxFile


@dataclass(frozen=True)
class Row:
    """Result for a file. failed: True if it did not end as expected."""

    case: Case
    outcome: str
    failed: bool
    seconds: float
    report: dict[str, Any] | None


def cases(cache: Path, pattern: str) -> Iterator[Case]:
    """Yield the cases whose package or file fits the pattern, and fetch or export their files."""
    for wheel in WHEELS:
        label = f"{wheel.package.name} {wheel.package.version}"
        if any(re.search(pattern, f"{label} {file.path}") for file in wheel.files):
            yield from (Case(label, path, file) for file, path in unpacked(wheel, cache))
    for name, files in INSTALLED.items():
        label = f"{name} {importlib.metadata.version(name)}"
        yield from (Case(label, installed_file(name, file), file) for file in files)
    for name in ("minilm", "vit"):
        for exporter in ("dynamo", "torchscript"):
            file = OnnxFile(f"{name}-{exporter}.onnx")
            if re.search(pattern, file.path):
                yield Case(
                    f"torch {importlib.metadata.version('torch')}", _exported(name, exporter, cache), file
                )


def _exported(name: str, exporter: str, cache: Path) -> Path:
    path = cache / f"{name}-{exporter}" / f"{name}-{exporter}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = Path(".cache/models/minilm")
        if name == "minilm":
            get_model(name, model)
        command = [sys.executable, "-m", "benchmarks.onnx_exports", name, exporter, str(path), str(model)]
        subprocess.run(command, check=True)
    return path


def build_case(case: Case, out: Path, ratio: float) -> Row:
    """Build a file in a process of its own and judge the outcome."""
    shapes = ("--opt-shapes", case.file.shapes) if case.file.shapes else ()
    # fmt: off
    command = [
        sys.executable, "-m", "patch_compile", "build", str(case.path), "-o", str(out), "--ratio", str(ratio), "--method",
        "magnitude", "--lowering", "plugin", "--backend", "onnx", "--force", "--json", *shapes,
    ]
    # fmt: on
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Row(case, f"FAILED: not done after {_SECONDS} s", True, _SECONDS, None)
    outcome, failed = outcome_of(done.returncode, done.stderr, case.file.refused)
    report = json.loads(done.stdout) if done.returncode == 0 else None
    return Row(case, outcome, failed, time.perf_counter() - start, report)


def outcome_of(code: int, said: str, refused: str) -> tuple[str, bool]:
    """Returns the outcome of a command in words, and True if it is not the expected outcome.

    code: exit code, negative for a signal; said: the command's stderr; refused: see `OnnxFile`.
    """
    if code == 0 and "Traceback" not in said:
        return ("FAILED: built, and should be refused", True) if refused else ("built", False)
    lines = [line.strip() for line in said.splitlines()]
    error = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    if code == 1 and refused and refused in error:
        why = next((line.removeprefix("why: ") for line in lines if line.startswith("why: ")), "")
        return f"refused: {why}", False
    return f"FAILED: exit code {code}, {error or (lines or ['nothing was said'])[-1]}", True


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [_HEADERS, ("---",) * len(_HEADERS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    proto = onnx.load(row.case.path, load_external_data=False)
    opset = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    made = f"{proto.producer_name} {proto.producer_version}".strip() or "unnamed"
    counts = error = moved = ""
    if row.report is not None:
        linears, agreement = row.report["linears"], row.report["agreement"]
        counts = f"{sum(one['lowering'] == 'plugin' for one in linears)} / {len(linears)}"
        error = f"{agreement['error']:.1e} ({agreement['tolerance']['share']:.1e})"
        relative = [one["relative"] for one in row.report["difference"]["outputs"]]
        moved = "not finite" if None in relative else f"{max(relative):.2g}"
    name = (
        row.case.path.name
        if row.case.path.name != "model.onnx"
        else f"{row.case.path.parent.name}/model.onnx"
    )
    return row.case.package, name, made, str(opset), counts, error, moved, f"{row.seconds:.0f}", row.outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="files whose package or path fits")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--cache", type=Path, default=Path(".cache/onnx-files"))
    given = parser.parse_args(arguments)
    out, rows = given.cache / "out", []
    for case in cases(given.cache.resolve(), given.only):
        if not re.search(given.only, f"{case.package} {case.path}"):
            continue
        row = build_case(case, out, given.ratio)
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out.with_name("out.partial"), ignore_errors=True)
        print(f"{case.package} {case.path.name}: {row.outcome}", file=sys.stderr, flush=True)
        rows.append(row)
    print(table(rows))
    failed = sum(row.failed for row in rows)
    print(f"\n{len(rows)} files, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
