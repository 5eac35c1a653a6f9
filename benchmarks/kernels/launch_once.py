"""Launches one hybrid product a few times, for a profiler, with the kernel that the plugin chooses.

python benchmarks/kernels/launch_once.py TOKENS [--share 0.9] [--weights int4]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from build_library import library_for
from hybrid import random_hybrid
from kernels import BYTES, WEIGHTS, Kernels
from problems import panel_rows

_SHAPE = 11008, 4096  # (out_features, in_features)
_LAUNCHES = 3  # the first finds cold instructions
_WIDENED_ROWS = 64  # of a panel of integers that are multiplied as 16-bit values


def main(argv: Sequence[str] | None = None) -> int:
    """Launch, and name the configuration; returns the exit code."""
    asked = _arguments(argv)
    if not torch.cuda.is_available():
        print("error: PyTorch sees no GPU", file=sys.stderr)
        return 1
    found = torch.cuda.get_device_properties(0)
    kernels = Kernels(library_for(f"sm_{found.major}{found.minor}"))
    (n, k), device, weights = _SHAPE, kernels.device(), WEIGHTS.index(asked.weights)
    rows = panel_rows((n, k)) if weights in (0, BYTES) else _WIDENED_ROWS
    hybrid = random_hybrid(kernels, (n, k), rows, asked.share, l2=found.L2_cache_size, weights=weights)
    x = torch.randn(asked.tokens, k, device="cuda").half()
    y = torch.empty(asked.tokens, n, dtype=torch.float16, device="cuda")
    call = hybrid.caller(x, y, device)
    for launch in range(_LAUNCHES):
        call(launch)
    torch.cuda.synchronize()
    number, parts = kernels.schedule(hybrid.problem(asked.tokens), device)
    print(f"{n}×{k}, {asked.tokens} tokens: {kernels.configs()[number].name}, {parts} parts")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokens", type=int)
    parser.add_argument("--share", type=float, default=0.9, help="share of the slabs that is 2:4")
    parser.add_argument("--weights", choices=WEIGHTS, default="", help="type of integers (default: 16 bits)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
