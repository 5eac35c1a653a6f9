"""Runs the readers of foreign bytes under atheris, one on each core: `python -m tests.fuzz [READER …] [--seconds N]`.

Inputs that are learned, and crashes, stay in build/fuzz/READER. The exit code is 1 if any input led to an error that is
not in words, to a hang of 10 seconds, or to more than 2 GiB of memory.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.reader import CORPUS
from tests.fuzz.readers import READERS

__all__ = ["BUILD", "Fuzzed", "fuzz", "main"]

BUILD = Path(__file__).parents[2] / "build/fuzz"
_LIMITS = ("-rss_limit_mb=2048", "-timeout=10", "-max_len=65536", "-print_final_stats=1")
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
        sys.executable, "-m", "tests.fuzz.child", name, str(folder / "crashes"), *_LIMITS, f"-max_total_time={seconds}",
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


def main(arguments: Sequence[str]) -> int:
    """Run the readers and print a table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--seconds", type=int, default=120, help="of each reader")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="readers at a time")
    given = parser.parse_args(arguments)
    if unknown := set(given.readers) - set(READERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    with ThreadPoolExecutor(given.jobs) as pool:
        results = pool.map(lambda name: fuzz(name, given.seconds), given.readers or READERS)
        broken = 0
        for result in results:
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
