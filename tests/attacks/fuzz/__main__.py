"""Runs the readers of foreign bytes under atheris, one on each core: `python -m tests.attacks.fuzz [READER …]`.

    python -m tests.attacks.fuzz --least                      # first those readers that had least of the processor so far
    python -m tests.attacks.fuzz --page docs/status/reliability.md  # no fuzzing: all runs so far, as a table of the page

Inputs that are learned, and crashes, stay in build/fuzz/READER, so a later run goes on where an earlier one stopped. What
each run came to is added to build/fuzz/RUNS.jsonl. The exit code is 1 if any input led to an error that is not in words, to
more than 10 seconds of the processor, to a wait of two minutes, or to more than 2 GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.page_part import renewed
from tests.attacks.fuzz.reader import CORPUS
from tests.attacks.fuzz.readers import READERS

__all__ = ["BUILD", "RUNS", "Fuzzed", "fuzz", "main", "runs_part"]

BUILD = Path(__file__).parents[3] / "build/fuzz"
RUNS = BUILD / "RUNS.jsonl"
_LIMITS = (
    "-rss_limit_mb=2048",
    "-timeout=120",
    "-report_slow_units=120",
    "-max_len=65536",
    "-print_final_stats=1",
)
_TAIL = 3000  # characters of a log that an error shows


@dataclass(frozen=True)
class Fuzzed:
    """Result of fuzzing one reader. cpu: seconds; crashes: files of the inputs that broke it."""

    name: str
    inputs: int
    cpu: float
    crashes: tuple[Path, ...]


def fuzz(name: str, seconds: int) -> Fuzzed:
    """Run a reader for some seconds. Raises RuntimeError with the end of its log if it did not run."""
    folder = BUILD / name
    shutil.rmtree(folder / "crashes", ignore_errors=True)
    for part in ("crashes", "learned"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    command = [
        sys.executable, "-m", "tests.attacks.fuzz.child", name, str(folder / "crashes"), *_LIMITS,
        f"-max_total_time={seconds}",
        f"-artifact_prefix={folder / 'crashes'}/", str(folder / "learned"), str(CORPUS / name),
    ]  # fmt: skip
    with log.open("wb") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    crashes = tuple(sorted(path for path in (folder / "crashes").iterdir() if path.suffix != ".txt"))
    done = re.search(r"number_of_executed_units: (\d+)", text)
    if not crashes and (child.returncode or done is None):
        raise RuntimeError(f"{name} did not run (exit code {child.returncode}):\n{text[-_TAIL:]}")
    return Fuzzed(name, int(done[1]) if done else 0, used.ru_utime + used.ru_stime, crashes)


def runs_part(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of all runs, one row for each reader, with sums. runs: lines of `RUNS`."""
    days, machines = {one["ended"][:10] for one in runs}, {one["machine"] for one in runs}
    lines = [
        f"{' and '.join(sorted(machines))}, {min(days)} to {max(days)}.",
        "",
        "| reader | minutes of the processor | inputs | crashes in the last run | crashes before it |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name in sorted({one["reader"] for one in runs}):
        own = [one for one in runs if one["reader"] == name]
        minutes, inputs = sum(one["cpu"] for one in own) / 60, sum(one["inputs"] for one in own)
        crashes = [one["crashes"] for one in own]
        lines.append(f"| {name} | {minutes:.1f} | {inputs:,} | {crashes[-1]} | {sum(crashes[:-1])} |")
    return "\n".join(lines)


def _runs() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.is_file() else []


def _keep(result: Fuzzed) -> None:
    """Append a run to `RUNS`. Whole lines of one write are not mixed with those of other threads."""
    run = {
        "reader": result.name,
        "inputs": result.inputs,
        "cpu": round(result.cpu, 1),
        "crashes": len(result.crashes),
        "ended": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": machine(),
    }
    with RUNS.open("a") as file:
        file.write(json.dumps(run) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run the readers and print a table. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.attacks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--seconds", type=int, default=120, help="of each reader")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="readers at a time")
    parser.add_argument("--least", action="store_true", help="first the readers with least time so far")
    parser.add_argument("--page", type=Path, help="only renew this page's table of all runs")
    given = parser.parse_args(arguments)
    if given.page:
        given.page.write_text(renewed(given.page.read_text(), "fuzz", runs_part(_runs())))
        return 0
    if unknown := set(given.readers) - set(READERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    names = list(given.readers or READERS)
    if given.least:
        used = Counter[str]()
        for one in _runs():
            used[one["reader"]] += one["cpu"]
        names.sort(key=lambda name: used[name])
    with ThreadPoolExecutor(given.jobs) as pool:
        futures = [pool.submit(fuzz, name, given.seconds) for name in names]
        broken = 0
        for future in as_completed(futures):
            result = future.result()
            _keep(result)
            print(
                f"{result.name:18} {result.inputs:9,} inputs {result.cpu:7.0f} s of CPU  {len(result.crashes)} crashes",
                flush=True,
            )
            for crash in result.crashes:
                print(f"    {crash}")
            broken += len(result.crashes)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
