"""Builds the library of the kernels for a GPU of another machine, which may have neither nvcc nor the internet.

    python benchmarks/kernels/build.py --arch sm_90 -o build/gpu

There, PATCH_BENCH_LIBRARY=build/gpu/libpatch_bench.so lets run.py and launch_once.py take it. Needs nvcc, but no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from kernels import LIBRARY, build_library

from patch_compile import PatchCompileError


def main(argv: Sequence[str] | None = None) -> int:
    """Build, and say how the library is found; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", required=True, help="of the GPU, such as sm_90")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the library")
    parser.add_argument(
        "--no-lines", action="store_true", help="without source lines, which a profiler shows"
    )
    asked = parser.parse_args(argv)
    try:
        library = build_library(asked.out, asked.arch, lines=not asked.no_lines)
    except (PatchCompileError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{LIBRARY}={library}  # {library.stat().st_size / (1 << 20):.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
