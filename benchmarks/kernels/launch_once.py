"""Launches one hybrid product a few times, for a profiler: the kernel is the one that the plugin chooses.

python benchmarks/kernels/launch_once.py TOKENS [--shape 11008x4096] [--share 0.9]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from hybrid import random_hybrid
from kernels import Kernels, build_library
from problems import panel_rows

_LAUNCHES = 3  # the first finds cold instructions


def main(argv: Sequence[str] | None = None) -> int:
    """Launch, and name the configuration; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokens", type=int)
    parser.add_argument("--shape", default="11008x4096", help="OUTxIN")
    parser.add_argument("--share", type=float, default=0.9, help="share of the slabs that is 2:4")
    asked = parser.parse_args(argv)
    n, k = map(int, asked.shape.split("x"))
    found = torch.cuda.get_device_properties(0)
    with tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(build_library(Path(folder), f"sm_{found.major}{found.minor}"))
    device = kernels.device()
    hybrid = random_hybrid(kernels, (n, k), panel_rows((n, k)), asked.share, l2=found.L2_cache_size)
    x = torch.randn(asked.tokens, k, device="cuda").half()
    y = torch.empty(asked.tokens, n, dtype=torch.float16, device="cuda")
    call = hybrid.caller(x, y, device)
    for launch in range(_LAUNCHES):
        call(launch)
    torch.cuda.synchronize()
    config, parts = kernels.schedule(hybrid.problem(asked.tokens), device)
    print(f"{n}×{k}, {asked.tokens} tokens: {kernels.configs()[config].name}, {parts} parts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
