"""Measures the error of a random model's logits, pruned and rounded to each weight type.

    python -m benchmarks.output_error [--shape smollm2-135m] [--blocks 4] [--ratio 0.35] [--weights float16 int8 int4]

Normal random weights are the other extreme to a model whose weights come from a quantised file: they lie on no grid. Each
type is learned as `learn --repair none` does, once without pruning and once at the ratio, from random tokens. Prints, for
other random tokens, the length of the difference from the model's own logits over the length of these.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.checkpoints import SHAPES, random_task, random_tokens, write_checkpoint
from benchmarks.machine import origin
from masklearn import LearnRecipe, learn_task, load_model
from masklearn.model.prune import write_pruned_checkpoint


def logits(folder: Path, windows: NDArray[np.int64]) -> torch.Tensor:
    """Returns the fp32 logits `[count, length, vocabulary]` of a model directory."""
    with torch.inference_mode():
        return load_model(folder)(torch.from_numpy(windows)).logits


def error(model: Path, recipe: LearnRecipe, windows: NDArray[np.int64], scratch: Path) -> float:
    """Learn by the recipe, and return the relative error of the logits."""
    shutil.rmtree(scratch, ignore_errors=True)  # learning would resume from another recipe's run
    learned = learn_task(random_task(model, recipe, scratch / "learn"))
    write_pruned_checkpoint(learned.checkpoint, learned.masks, scratch / "pruned")
    exact, made = logits(model, windows), logits(scratch / "pruned", windows)
    return float((made - exact).norm() / exact.norm())


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--ratio", type=float, default=0.35)
    parser.add_argument("--weights", nargs="+", default=["float16", "int8", "int4"])
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--scratch", type=Path, default=Path(".cache/output_error"))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table with a row for each type."""
    asked = arguments(argv)
    shutil.rmtree(asked.scratch, ignore_errors=True)
    model = asked.scratch / "model"
    try:
        config = SHAPES[asked.shape] | {"num_hidden_layers": asked.blocks}
        write_checkpoint(model, config)
        made = origin()
        windows = random_tokens(config["vocab_size"], 2, asked.length, seed=1)
        print(f"{asked.shape}, {asked.blocks} blocks of random weights, {made['machine']}, {made['date']}\n")
        print(f"| weights | rounded | pruned to {asked.ratio:g} and rounded |\n| --- | --- | --- |")
        for weights in asked.weights:
            row = [
                error(
                    model,
                    LearnRecipe(
                        ratio=ratio,
                        method=method,
                        repair="none",
                        windows=asked.windows,
                        length=asked.length,
                        tile="64x64",
                        weights=weights,
                    ),
                    windows,
                    asked.scratch / "work",
                )
                for ratio, method in ((0.0, "sparsegpt"), (asked.ratio, "oneshot"))
            ]
            print(f"| {weights} | {row[0]:.4f} | {row[1]:.4f} |", flush=True)
    finally:
        shutil.rmtree(asked.scratch, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
