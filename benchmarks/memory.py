"""Measures peak memory and seconds of `oneshot` on a few blocks of a large model's shape.

    python -m benchmarks.memory [--shape llama-2-7b] [--blocks 2] [--windows 32] [--length 512] [--limit 8] [--weights int4]

Writes a checkpoint of seeded random weights with these blocks, and scores, chooses and solves it in a process of its
own, without repair, whose memory `masklearn.training.model` decides. Then extrapolates to all blocks: seconds grow with
the blocks, and memory by everything that is kept of a block until the tiles are chosen. The row is kept next to the rows of
`benchmarks.quality.run` (`--state`), whose page shows it. Exit code 1 above `--limit` GiB.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import SHAPES, random_task, write_checkpoint
from benchmarks.machine import origin
from benchmarks.quality.child import peak_gib
from benchmarks.quality.run import State
from masklearn import GROUP, LearnRecipe, grid_shape, learn_task


def measure(folder: Path, recipe: LearnRecipe) -> dict[str, Any]:
    """Learn on random tokens, and return the peak in GiB and the seconds of each stage."""
    shutil.rmtree(
        folder / "scratch", ignore_errors=True
    )  # learning would resume from an earlier run, and take no time
    stages: dict[str, float] = {}
    last = time.perf_counter()

    def clock(what: str, _done: int, _total: int) -> None:
        nonlocal last
        now, stage = time.perf_counter(), what.split(",")[0]
        stages[stage] = stages.get(stage, 0.0) + now - last
        last = now

    task = random_task(folder, recipe, folder / "scratch", progress=clock)
    start = last = time.perf_counter()
    learned = learn_task(task)
    kept = sum(n * k // GROUP + 4 * math.prod(grid_shape((n, k), recipe.tile))
               for n, k in task.coverage.linears.values())  # fmt: skip
    return {
        "reached": learned.masks.ratio,
        "seconds": round(time.perf_counter() - start, 1),
        "stages": {name: round(seconds, 1) for name, seconds in stages.items()},
        "peak_gib": round(peak_gib(), 2),
        "kept_gib_a_block": round(kept / task.checkpoint.config["num_hidden_layers"] / 2**30, 4),
    }


def extrapolated(row: dict[str, Any], blocks: int) -> dict[str, float]:
    """Hours and peak in GiB for all `blocks` of the shape."""
    more = blocks - row["blocks"]
    return {
        "hours": round(row["seconds"] / row["blocks"] * blocks / 3600, 2),
        "peak_gib": round(row["peak_gib"] + more * row["kept_gib_a_block"], 2),
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--weights", help="types of weights to round to; the row is only printed then")
    parser.add_argument("--limit", type=float, default=8.0, help="GiB")
    parser.add_argument("--state", type=Path, default=Path("docs/explanation/quality.json"))
    parser.add_argument("--scratch", type=Path, default=Path(".cache/memory"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # for the child process
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the checkpoint, measure in another process, print and keep the row."""
    asked = arguments(argv)
    recipe = LearnRecipe(
        ratio=0.4, repair="none", windows=asked.windows, length=asked.length, weights=asked.weights
    )
    if asked.measure is not None:
        print(json.dumps(measure(asked.measure, recipe)))
        return 0
    folder = asked.scratch / asked.shape
    shutil.rmtree(folder, ignore_errors=True)
    whole = SHAPES[asked.shape]
    try:
        write_checkpoint(folder, whole | {"num_hidden_layers": asked.blocks})
        command = [sys.executable, "-m", "benchmarks.memory", "--measure", str(folder)]
        command += ["--windows", str(asked.windows), "--length", str(asked.length)]
        command += ["--weights", asked.weights] if asked.weights else []
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(run.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    row |= origin() | {
        "shape": asked.shape,
        "blocks": asked.blocks,
        "windows": asked.windows,
        "length": asked.length,
    }
    row |= {"weights": asked.weights} if asked.weights else {}
    row["all_blocks"] = whole["num_hidden_layers"]
    row["whole"] = extrapolated(row, row["all_blocks"])
    if asked.weights is None:
        State(asked.state).put(f"memory-{asked.shape}", row)
    print(json.dumps(row, indent=1))
    print(f"{asked.shape}: peak {row['whole']['peak_gib']} GiB, {row['whole']['hours']} h in all")
    return int(row["whole"]["peak_gib"] > asked.limit)


if __name__ == "__main__":
    sys.exit(main())
