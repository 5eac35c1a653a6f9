"""Measures uniform SparseGPT 2:4 by other tools, on the calibration windows of `benchmarks.quality.run`.

    python -m benchmarks.other_tools MODEL_DIR --calib TEXT --eval TEXT --python TOOLS/bin/python

TOOLS is an environment of its own (`python -m venv TOOLS; TOOLS/bin/pip install nvidia-modelopt llmcompressor`),
because the tools pin versions of torch and transformers, and neither is a dependency of this project. A tool that TOOLS
lacks is named and skipped. Each tool prunes the fp32 model on the CPU, and its weights are stored in the checkpoint's
type, as ours are. Rows are kept beside those of `benchmarks.quality.run` and appear on its page.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import origin
from benchmarks.quality.run import State, arguments, protocol
from masklearn import (
    Checkpoint,
    LearnRecipe,
    calibration_windows,
    covered_linears,
    first_windows,
    load_model,
    load_tokenizer,
    perplexity,
)

TOOLS = ("modelopt", "llmcompressor")
_MISSING = 3  # exit code of `other_tools_run` for a missing tool
_PRUNE = Path(__file__).with_name("other_tools_run.py")


def measure(asked: argparse.Namespace, python: Path, tool: str, folder: Path) -> dict[str, Any] | None:
    """Measure one tool and return its row; None when the environment lacks the tool."""
    recipe = LearnRecipe(calib=str(asked.calib), windows=asked.windows, length=asked.length)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "windows.npy", calibration_windows(Checkpoint.open(asked.model), recipe))
    paths = [asked.model, folder / "windows.npy", folder / "model"]
    code = subprocess.run([python, _PRUNE, tool, *paths], check=False).returncode
    if code == _MISSING:
        return None
    if code:
        raise SystemExit(f"{tool} failed with exit code {code}")
    about = json.loads((folder / "model" / "peer.json").read_text(encoding="utf-8"))
    windows = first_windows(
        load_tokenizer(asked.model), asked.evaluation, asked.eval_length, asked.eval_windows
    )
    value = perplexity(load_model(folder / "model"), windows).value
    name = f"{tool} {about['version']}, sparsegpt 2:4"
    row = {
        "method": name,
        "ratio": None,
        "reached": zeros(asked.model, folder / "model"),
        "perplexity": value,
    }
    return row | origin() | {"seconds": about["seconds"], "deployable": True, "protocol": protocol(asked)}


def zeros(model: Path, pruned: Path) -> float:
    """Share of zeros among the covered linears' weights in a pruned copy."""
    checkpoint = Checkpoint.open(pruned)
    weights = [checkpoint.read(f"{name}.weight") for name in covered_linears(model).linears]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.size for weight in weights)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each installed tool, print the rows and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--tools", nargs="*", default=TOOLS, choices=TOOLS)
    ours, rest = parser.parse_known_args(argv)
    asked = arguments(rest)
    state = State(asked.state)
    for tool in ours.tools:
        folder = asked.scratch / f"peer-{tool}"
        try:
            row = measure(asked, ours.python, tool, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if row is None:
            print(f"{tool} is not installed in the environment of {ours.python}", file=sys.stderr)
            continue
        state.put(f"peer-{tool}", row)
        print(
            f"{row['method']}: perplexity {row['perplexity']:.2f}, {row['seconds']:.0f} s, zeros {row['reached']:.4f}"
        )


if __name__ == "__main__":
    main()
