"""Checks the hybrid kernels on this machine's GPU, then times them beside cuBLAS and cuSPARSELt.

    python benchmarks/kernels/run.py [--out gpu.jsonl] [--minutes 9] [--stages check,sweep,...]

Needs nvcc, PyTorch with CUDA and numpy. Builds the kernels as a shared library and goes through the stages in order:

  check      every configuration against float64; a wrong one is named, and left out of the sweep
  sweep      every configuration with several numbers of parts, for 1 to 2048 tokens
  products   shares of 2:4 slabs beside cuBLAS on the dense weight and cuSPARSELt
  epilogues  gated products and products with a residual, beside the several kernels of a dense model
  decoder    a LLaMA-2-7B of random weights, dense and hybrid: tokens a second

Weights rotate through more memory than L2 holds; a time is the median of CUDA-graph replays. Rows are written as they
come, with clocks and power; a second run with the same file goes on where the first ended. Prints tables of ratios.
Exit code 1 when a check fails. What to do with the file: benchmarks/kernels/fit.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from check import TOKENS as CHECKED_TOKENS
from check import check, names
from decoder import decoder_rows, decoder_table
from gpu import MeasuredGpu, Sensors, driver_version
from kernels import Device, Kernels, build_library
from products import epilogue_rows, epilogue_table, product_rows, table
from rows import Row, Rows
from sweep import best_table, slab_clocks, sweep_rows

from patch_compile.plugin.toolchain import plugin_sources

STAGES = ("check", "sweep", "products", "epilogues", "decoder")
_FEW_TOKENS = (1, 17, 130)  # of a check under compute-sanitizer, which is many times slower
_LIBRARY = "PATCH_BENCH_LIBRARY"  # a built library, for the processes that check


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages, print and write; returns the exit code."""
    asked = _arguments(argv)
    deadline = time.monotonic() + 60 * asked.minutes
    if not torch.cuda.is_available():
        print("error: PyTorch sees no GPU; this benchmark runs on one", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        found = torch.cuda.get_device_properties(0)
        if _LIBRARY not in os.environ:
            os.environ[_LIBRARY] = str(build_library(Path(folder), f"sm_{found.major}{found.minor}"))
        kernels = Kernels(Path(os.environ[_LIBRARY]))
        about = {"gpu": found.name, "capability": [found.major, found.minor], "driver": driver_version()}
        about |= {"kernels": _fingerprint(), "torch": torch.__version__, "cuda": torch.version.cuda}
        try:
            rows = Rows(asked.out, about)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if asked.check_only:
            return _check_here(kernels, rows, _FEW_TOKENS)
        if asked.check_in_child:
            return _check_here(kernels, rows, CHECKED_TOKENS)
        return _run(kernels, rows, asked, deadline)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.jsonl"), help="file of rows (default: gpu.jsonl)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="start no row after so many (default: 9)")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of them, in the order wanted")
    parser.add_argument(
        "--check-only", action="store_true", help="a short check in this process, for sanitize.sh"
    )
    parser.add_argument("--check-in-child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    asked.stages = [name.strip() for name in asked.stages.split(",") if name.strip()]
    if unknown := set(asked.stages) - set(STAGES):
        parser.error(f"there is no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    return asked


def _fingerprint() -> str:
    """The first digits of a SHA-256 over the kernels' sources: rows of other kernels are not mixed with these."""
    found = hashlib.sha256()
    for path in sorted(plugin_sources().glob("kernels/*")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _run(kernels: Kernels, rows: Rows, asked: argparse.Namespace, deadline: float) -> int:
    device = kernels.device()
    wrong: list[str] = []
    with Sensors.running() as sensors:
        if "check" in asked.stages:
            _check_in_children(names(kernels, device), rows, asked.out)
        for row in rows.of("check"):
            wrong += [row["key"]["config"]] * bool(row["faults"])
            for fault in row["faults"]:
                print(f"wrong: {fault}")
        if set(asked.stages) - {"check"}:
            gpu = MeasuredGpu()
            _rates(gpu, device, rows)
            stages: dict[str, Callable[[], Iterator[tuple[Row, Any]]]] = {
                "sweep": partial(sweep_rows, kernels, gpu, device, wrong),
                "products": partial(product_rows, kernels, gpu, device),
                "epilogues": partial(epilogue_rows, kernels, gpu, device),
                "decoder": partial(decoder_rows, kernels, device),
            }
            for stage in asked.stages:
                if stage in stages and not _measure(stage, stages[stage](), rows, sensors, deadline):
                    print(f"the time was over in the stage {stage}: run it again to go on", file=sys.stderr)
                    break
    _print(kernels, device, rows)
    return int(bool(wrong))


def _rates(gpu: MeasuredGpu, device: Device, rows: Rows) -> None:
    rates = {"copies": gpu.bandwidth, "reads": gpu.reads, "flops": gpu.flops, "sms": device.sms, "l2": gpu.l2}
    if not rows.known("rates", {}):
        rows.add("rates", {}, rates)


def _measure(
    stage: str, found: Iterator[tuple[Row, Any]], rows: Rows, sensors: Sensors, deadline: float
) -> bool:
    """Measure the rows that the file lacks. Returns False when the time is over before the last."""
    for key, measure in found:
        if rows.known(stage, key):
            continue
        if time.monotonic() > deadline:
            return False
        sensors.since_last()
        try:
            figures = measure()
        except torch.cuda.OutOfMemoryError as error:
            print(f"{stage} {key}: {error}", file=sys.stderr)
            torch.cuda.empty_cache()
            continue
        rows.add(stage, key, figures | {"sensors": sensors.since_last()})
    return True


def _check_here(kernels: Kernels, rows: Rows, tokens: Sequence[int]) -> int:
    device = kernels.device()
    bad = False
    for name in names(kernels, device):
        if rows.known("check", {"config": name}):
            continue
        faults = [str(fault) for fault in check(kernels, device, tokens=tokens, only=name)]
        rows.add("check", {"config": name}, {"faults": faults})
        bad |= bool(faults)
        for fault in faults:
            print(f"wrong: {fault}", flush=True)
    return int(bad)


def _check_in_children(wanted: Sequence[str], rows: Rows, out: Path) -> None:
    """Check each configuration in a process that may die: an illegal access ends all work of its process.

    The process that dies leaves its last configuration without a row. It gets one here, and the next process goes on.
    """
    for _ in wanted:
        rows.reread()
        missing = [name for name in wanted if not rows.known("check", {"config": name})]
        if not missing:
            return
        command = [sys.executable, __file__, "--check-in-child", "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        rows.reread()
        missing = [name for name in wanted if not rows.known("check", {"config": name})]
        if missing:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            rows.add("check", {"config": missing[0]}, {"faults": [f"{missing[0]}: {last[0]}"]})


def _print(kernels: Kernels, device: Device, rows: Rows) -> None:
    for rate in rows.of("rates"):
        print(f"copies {rate['copies'] / 1e9:.0f} GB/s, reads {rate['reads'] / 1e9:.0f} GB/s, ", end="")
        print(f"cuBLAS {rate['flops'] / 1e12:.0f} TFLOP/s in fp16")
    if found := rows.of("sweep"):
        print("\nfastest configuration of the sweep, and the plugin's choice\n")
        print(best_table(found))
        clocks = [row["sensors"]["sm_mhz"] for row in found if row["sensors"].get("sm_mhz")]
        if clocks:
            tokens = {config.name: config.tokens for config in kernels.configs()}
            print("\nclocks of an SM: a launch, a dense slab, a 2:4 slab\n")
            for name, fit in slab_clocks(found, device.sms, sorted(clocks)[len(clocks) // 2], tokens).items():
                print(
                    f"{name:16} {fit['launch']:8.0f} {fit['dense']:8.0f} {fit['sparse']:8.0f}"
                    f"   ± {fit['error']:.0%} over {fit['rows']} rows"
                )
    if found := rows.of("products"):
        print("\ntimes of cuBLAS on the dense weight / of the hybrid kernel, p: share of 2:4 slabs\n")
        print(table(found))
    if found := rows.of("epilogues"):
        print("\ntimes of the dense path / of the one hybrid kernel\n")
        print(epilogue_table(found))
    if found := rows.of("decoder"):
        print("\nLLaMA-2-7B, random weights, batch 16, 128 + 128 tokens, in CUDA graphs\n")
        print(decoder_table(found))


if __name__ == "__main__":
    sys.exit(main())
