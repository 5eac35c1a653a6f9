"""Builds the library of the kernels and the plugin's class for a GPU of another machine.

    python benchmarks/kernels/build.py --arch sm_90 -o build/gpu

There, PATCH_BENCH_LIBRARY=build/gpu/libpatch_plugin_driver.so lets run.py, launch_once.py and plugin_on_gpu.py take it. That
machine needs neither nvcc nor the internet. This machine needs nvcc, but no GPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from kernels import LIBRARY
from plugin_driver import build_driver

from masklearn.base.durable import whole_file
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
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory() as objects:
            built = build_driver(Path(objects), asked.arch, lines=not asked.no_lines)
            library = asked.out / built.name
            with whole_file(library) as part:
                shutil.copy(built, part)
    except (PatchCompileError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{LIBRARY}={library}  # {library.stat().st_size / (1 << 20):.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
