"""Checks the hybrid kernels on this machine's GPU, then times them against cuBLAS and cuSPARSELt.

    python benchmarks/kernels/run.py [--out gpu.jsonl] [--minutes 9] [--stages check sweep ...]

Needs nvcc, PyTorch with CUDA and numpy. Builds the kernels as a shared library and goes through the stages in order:

  check      every configuration against float64; wrong configurations are named, useless ones are left out of the sweep
  sweep      every configuration with several numbers of parts, for 1 to 2048 tokens
  products   shares of 2:4 slabs against cuBLAS on the dense weight and cuSPARSELt; of w8a8 against cuBLASLt's int8

Weights rotate through more memory than L2 holds; a time is the median of CUDA-graph replays. Rows are written as they
come, with clocks and power; a second run with the same file goes on where the first ended. Each stage runs in a process
of its own: a crash or hang gets a row that says so, and the stage goes on behind it. Prints tables of ratios. Exit code 1
when a check fails or a stage can't start. What to do with the file: benchmarks/kernels/fit.py.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from build_library import LIBRARY, fingerprint, library_for
from check import check_row, names
from children import (
    CANT_START,
    DONE,
    TIME_IS_OVER,
    Patience,
    measure_rows,
    run_in_children,
    settle,
    stop_when_asked,
)
from gpu import MeasuredGpu, Sensors, driver_version, usable
from kernels import Kernels
from products import product_rows, product_table
from rows import Row, Rows
from sweep import TOKENS, best_table, sweep_rows

from patch_compile import PatchCompileError

STAGES = ("check", "sweep", "products")
_FEW_TOKENS = (17,)  # of a check under compute-sanitizer, which is many times slower
_PATIENCE = Patience()
_PR_SET_PDEATHSIG = 1

# Keys of rows, each with a function that measures the row's figures.
Found = Iterator[tuple[Row, Callable[[], Row]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages, print and write; returns the exit code."""
    asked = _arguments(argv)
    asked.until = asked.until or time.monotonic() + 60 * asked.minutes  # building the library counts
    if not torch.cuda.is_available():
        print("error: PyTorch sees no GPU; this benchmark needs a GPU", file=sys.stderr)
        return 1
    found = torch.cuda.get_device_properties(0)
    try:
        library = library_for(f"sm_{found.major}{found.minor}")
        about = {"gpu": found.name, "capability": [found.major, found.minor], "driver": driver_version()}
        about |= {"kernels": fingerprint(library), "torch": torch.__version__, "cuda": torch.version.cuda}
        rows = Rows(asked.out, about)
    except (PatchCompileError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ[LIBRARY] = str(library)  # for the processes of the stages
    if asked.check_only:
        return _check_here(rows, asked.check_only)
    if asked.measure:
        return _measure(rows, asked)
    return _run(rows, asked)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.jsonl"), help="file of rows (default: gpu.jsonl)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="start no row after so many (default: 9)")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="some of them, in the order wanted"
    )
    parser.add_argument(
        "--check-only", metavar="CONFIG", help="a short check in this process, for sanitize.sh"
    )
    parser.add_argument(
        "--tokens", nargs="+", type=int, default=TOKENS, help="numbers of tokens of the sweep"
    )
    # How `_run` asks a process for the rows of a stage until a moment of time.monotonic.
    parser.add_argument("--measure", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _run(rows: Rows, asked: argparse.Namespace) -> int:
    """Run the stages, each in processes of its own, and print the rows of the file."""
    settle(rows, "its process ended before it did", fatal=False)
    unstarted = False
    for stage in asked.stages:
        found = run_in_children(stage, _command(stage, asked), rows, _PATIENCE, asked.until)
        unstarted |= found == CANT_START
        if found == TIME_IS_OVER:
            print(f"the time was over in the stage {stage}: run it again to go on", file=sys.stderr)
            break
    _print(rows)
    return int(unstarted or bool(rows.failed("check")) or any(row["faults"] for row in rows.of("check")))


def _command(stage: str, asked: argparse.Namespace) -> list[str]:
    command = [sys.executable, __file__, "--measure", stage, "--until", str(asked.until)]
    return [*command, "--out", str(asked.out), "--tokens", *map(str, asked.tokens)]


def _measure(rows: Rows, asked: argparse.Namespace) -> int:
    """Measure the missing rows of a stage in this process, which ends with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    kernels = Kernels(Path(os.environ[LIBRARY]))
    with Sensors.running() as sensors:
        measured = partial(
            measure_rows, rows=rows, sensors=sensors.since_last, usable=usable, deadline=asked.until
        )
        if asked.measure == "check":
            return measured(asked.measure, _rows_of(kernels, None, rows, asked))
        code = measured("rates", [({}, lambda: asdict(MeasuredGpu.measure()))])
        if code != DONE:
            return code
        for failed in rows.failed("rates"):
            sys.exit(f"the rates of this GPU were not measured: {failed['failed']}")
        gpu = MeasuredGpu(**{one.name: rows.of("rates")[0][one.name] for one in fields(MeasuredGpu)})
        return measured(asked.measure, _rows_of(kernels, gpu, rows, asked))


def _rows_of(kernels: Kernels, gpu: Any, rows: Rows, asked: argparse.Namespace) -> Found:
    device, stage = kernels.device(), asked.measure
    if stage == "check":
        return (
            ({"config": name}, partial(check_row, kernels, device, name)) for name in names(kernels, device)
        )
    if stage == "sweep":
        return sweep_rows(kernels, gpu, device, _useless(rows), asked.tokens)
    return product_rows(kernels, gpu, device)


def _useless(rows: Rows) -> set[str]:
    """Names of the configurations that crash, hang, or give answers far off."""
    found = [row for row in rows.of("check") if row["useless"]] + rows.failed("check")
    found += [row for row in rows.failed("sweep") if row["fatal"]]
    return {row["key"]["config"] for row in found}


def _check_here(rows: Rows, config: str) -> int:
    """Check in this process, whatever rows there are: a tool that watches this process wants to see the launches."""
    kernels = Kernels(Path(os.environ[LIBRARY]))
    device = kernels.device()
    if config not in (found := names(kernels, device)):
        sys.exit(f"error: there is no {config} here; there are {', '.join(found)}")
    row = check_row(kernels, device, config, _FEW_TOKENS)
    rows.add("check", {"config": config}, row)
    for fault in row["faults"]:
        print(f"wrong: {fault}", flush=True)
    return int(bool(row["faults"]))


def _print(rows: Rows) -> None:
    for row in rows.of("check"):
        for fault in row["faults"]:
            print(f"wrong: {fault}")
    for stage in STAGES:
        for row in rows.failed(stage):
            print(f"failed: {stage} {row['key']}: {row['failed']}")
    for rate in rows.of("rates"):
        print(f"copies {rate['copies'] / 1e9:.0f} GB/s, reads {rate['reads'] / 1e9:.0f} GB/s, ", end="")
        print(f"cuBLAS {rate['flops'] / 1e12:.0f} TFLOP/s in fp16")
    if found := rows.of("sweep"):
        print("\nfastest configuration of the sweep, and the plugin's choice\n")
        print(best_table(found))
    if found := rows.of("products"):
        print("\ntimes of cuBLAS on the dense weight / of the hybrid kernel, p: share of 2:4 slabs\n")
        print(product_table(found))


if __name__ == "__main__":
    stop_when_asked()
    sys.exit(main())
