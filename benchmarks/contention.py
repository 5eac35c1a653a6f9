"""Measures how much learning slows beside busy processes on the same cores.

    python -m benchmarks.contention [--cores 2] [--busy 1] [--blocks 1] [--windows 8] [--repeats 3] [--limit 1.1]

Writes a checkpoint of seeded random weights in the shape of SmolLM2-135M with these blocks, and runs `oneshot` on it
without repair: alone, and beside processes that compute without end. Both are pinned to the same cores, and both take
turns; the best of their repeats counts. A program that takes its fair share loses what the busy processes take, and no
more. Exit code 1 if learning takes more than `--limit` times as long as its share allows.

Processor seconds are printed too: on a machine that others use as well, they tell spinning threads from lost time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SHAPE = "smollm2-135m"


@dataclass(frozen=True, order=True)
class Run:
    """Duration of one run of learning, and the processor time that it took."""

    seconds: float
    processor_seconds: float


def fair_slowdown(cores: int, busy: int) -> float:
    """Returns the slowdown of a program on all `cores` if `busy` processes of one thread each take their share."""
    return cores / max(cores - busy, cores / (1 + busy))


def measure(folder: Path, windows: int, length: int) -> Run:
    """Learn in this process on random tokens. The seconds do not include imports."""
    from masklearn import LearnRecipe  # before torch is loaded, for the settings of its threads

    from benchmarks.memory import measure as learn  # isort: skip

    before = _processor_seconds()
    row = learn(folder, LearnRecipe(ratio=0.4, repair="none", windows=windows, length=length))
    return Run(row["seconds"], round(_processor_seconds() - before, 1))


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes computing meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _child(folder: Path, asked: argparse.Namespace) -> Run:
    command = [sys.executable, "-m", "benchmarks.contention", "--measure", str(folder)]
    command += ["--windows", str(asked.windows), "--length", str(asked.length)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Run(*json.loads(done.stdout.splitlines()[-1]))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--busy", type=int, default=1, help="processes that compute without end")
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1.1, help="times the fair slowdown")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # for the child process
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure alone and beside busy processes, and print both with their ratio."""
    asked = arguments(argv)
    if asked.measure is not None:
        run = measure(asked.measure, asked.windows, asked.length)
        print(json.dumps([run.seconds, run.processor_seconds]))
        return 0
    from benchmarks.checkpoints import SHAPES, write_checkpoint

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.cores])  # children inherit it
    cores = len(os.sched_getaffinity(0))
    alone, beside = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(asked.repeats):
            folder = Path(scratch) / str(repeat)
            write_checkpoint(folder, SHAPES[_SHAPE] | {"num_hidden_layers": asked.blocks})
            alone.append(_child(folder, asked))
            with busy_processes(asked.busy):
                beside.append(_child(folder, asked))
    one, other = min(alone), min(beside)
    ratio, fair = other.seconds / one.seconds, fair_slowdown(cores, asked.busy)
    print(f"alone:   {one.seconds:6.1f} s, {one.processor_seconds:6.1f} s of processor time")
    print(f"beside {asked.busy}: {other.seconds:5.1f} s, {other.processor_seconds:6.1f} s of processor time")
    print(f"ratio:   {ratio:6.2f}, the fair share on {cores} cores gives {fair:.2f}")
    return int(ratio > asked.limit * fair)


if __name__ == "__main__":
    sys.exit(main())
