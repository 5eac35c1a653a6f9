"""The kernels and the emulation that runs them, under AddressSanitizer and UBSan, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracles.element_packing import KEPT
from tests.oracles.integer_packing import W8A8
from tests.plugins.configs import ALL
from tests.plugins.host_kernel import COMPILER, CopyMode, HostKernel, Launch, host_library
from tests.plugins.mosaic_cases import make_case
from tests.plugins.sanitized import SANITIZERS

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

NAMES = ("decode-64", "decode-64", "all-decode-64", "w8a8-decode-64")
PLAIN = {"residual": True}
ALL_KINDS = PLAIN | {"kinds": len(KEPT), "share": 0.9}
ROUNDED = PLAIN | {"integers": W8A8}
GATED = {"gated": True, "activation": "silu", "residual": True}


def battery(kernel):
    """Raise RuntimeError at a fault of the emulation's own checks; a sanitizer ends the process."""
    for name, how in zip(NAMES, (PLAIN, GATED, ALL_KINDS, ROUNDED), strict=True):
        config = ALL.index(name)
        case = make_case(19, (67 if "gated" not in how else 72, 132), 64, **how)
        for mode in CopyMode:
            y = kernel.run(
                case.packed, case.x, case.bias, Launch(config, parts=3, mode=mode), **case.epilogue
            )
            assert case.worst(y) <= 1


def test_the_kernels_are_without_a_fault(library_cache):
    """Python is not a sanitized program, so the sanitizer's library is loaded before it, and leaks are not looked for."""
    assert COMPILER is not None
    options = ("-O0", "-g1", "-fno-omit-frame-pointer", *SANITIZERS)
    bits = sum(1 << ALL.index(name) for name in {*NAMES})
    defines = (f"PATCH_HOST_CONFIGS={bits}", "PATCH_HOST_SCALARS=1")
    library = host_library(library_cache, defines=defines, options=options)
    found = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout
    if not Path(found.strip()).is_file():
        pytest.skip(f"{COMPILER} has no libasan.so")
    settings = {"LD_PRELOAD": found.strip(), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.plugins.kernels.test_sanitized", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    assert (done.returncode, done.stdout) == (0, "no fault\n"), done.stderr[-3000:]


if __name__ == "__main__":
    battery(HostKernel(Path(sys.argv[1])))
    print("no fault")
