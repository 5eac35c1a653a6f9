"""Calibration text that the model writes itself, beside real text: the same method, ratio and windows.

    python bench/selftext.py MODEL_DIR --calib TEXT --eval TEXT --method wanda --ratio 0.4 --windows 64

Prints a row for the dense model, one for real and one for self-written calibration: seconds of learning (text
included), ratio reached, and perplexity on the first windows of the evaluation text in fp32.
"""

import argparse
import tempfile
import time
from pathlib import Path

from masklearn.calibrate import first_windows, load_tokenizer
from masklearn.evaluate import load_model, perplexity
from masklearn.learn import LearnRecipe, Method, Repair, learn
from masklearn.prune import write_pruned_checkpoint


def main() -> None:
    """Measure and print the table."""
    asked = _arguments()
    windows = first_windows(
        load_tokenizer(asked.model), asked.evaluation, asked.eval_length, asked.eval_windows
    )
    print(
        f"{asked.model.name}, {asked.method}, ratio {asked.ratio}, tiles {asked.tile}x{asked.tile}, calibration "
        f"{asked.windows} windows x {asked.length}, seed {asked.seed}; perplexity on {asked.evaluation}, "
        f"{asked.eval_windows} windows x {asked.eval_length}, fp32"
    )
    print(f"{'calibration text':40} {'tokens':>9} {'seconds':>8} {'ratio':>7} {'perplexity':>11}")
    dense = perplexity(load_model(asked.model), windows).value
    print(f"{'(dense)':40} {'':>9} {'':>8} {'':>7} {dense:11.3f}")
    for calib in (asked.calib, None):
        print(_row(asked, calib, windows), flush=True)


def _row(asked: argparse.Namespace, calib: str | None, windows: object) -> str:
    """Learn with one text and measure the pruned checkpoint."""
    recipe = LearnRecipe.checked(
        method=asked.method,
        ratio=asked.ratio,
        tile=(asked.tile, asked.tile),
        calib=calib,
        windows=asked.windows,
        length=asked.length,
        seed=asked.seed,
        repair=asked.repair,
        repair_steps=asked.repair_steps,
    )
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        start = time.perf_counter()
        learned = learn(asked.model, recipe, Path(folder) / "scratch")
        seconds = time.perf_counter() - start
        write_pruned_checkpoint(learned.checkpoint, learned.masks, Path(folder) / "model")
        value = perplexity(load_model(Path(folder) / "model"), windows).value
    text = learned.masks.extra["text"]
    return f"{text['name']:40} {text['tokens']:9} {seconds:8.1f} {learned.masks.ratio:7.4f} {value:11.3f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True, help="real text to compare with")
    parser.add_argument("--eval", dest="evaluation", required=True, help="held-out text for perplexity")
    parser.add_argument("--method", default=Method.WANDA.value, choices=[method.value for method in Method])
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repair", default=Repair.NONE.value, choices=[repair.value for repair in Repair])
    parser.add_argument("--repair-steps", type=int)
    parser.add_argument("--eval-windows", type=int, default=16)
    parser.add_argument("--eval-length", type=int, default=1024)
    parser.add_argument("--scratch", default=".", help="folder for the pruned checkpoints, removed after")
    return parser.parse_args()


if __name__ == "__main__":
    main()
