"""run.py's process of a stage on a machine without a GPU. Its measurements crash, hang or fail as their names say.

The variable STAND_IN is a folder. A measurement that hangs leaves a file there; with a file `can't start` nothing starts.
"""

import importlib
import math
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

FOLDER = Path(os.environ.get("STAND_IN", "."))
BENCH = Path(__file__).parents[3] / "benchmarks" / "kernels"
sys.path.insert(0, str(BENCH))
dry_run = importlib.import_module("dry_run")
NAMES = ("fine", "crashes", "gives NaN", "hangs", "raises", "kills the context", "last")
lost = False


def key(name):
    shown = {
        "shape": [64, 64],
        "share": 0.5,
        "tokens": 16,
        "type": "float16",
        "linears": "dense",
    }
    return {"config": name, "parts": 1, **shown}


def figures(name):
    global lost
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hangs":
        (FOLDER / f"hangs {os.getpid()}").touch()
        while True:
            time.sleep(1)
    if name == "raises":
        raise RuntimeError("invalid argument")
    if name == "kills the context":
        lost = True
        raise RuntimeError("an illegal memory access was encountered")
    return dry_run.FIGURES | ({"worst": math.nan} if name == "gives NaN" else {})


def rows_of(*_):
    return ((key(name), partial(figures, name)) for name in NAMES)


if __name__ == "__main__":
    if (FOLDER / "can't start").exists():
        raise ImportError("libcudart.so is missing")
    run, gpu = dry_run.without_torch("run"), importlib.import_module("gpu")
    run.Kernels, run.usable, run._rows_of = (lambda _: None), (lambda: not lost), rows_of
    gpu.MeasuredGpu.measure = classmethod(lambda cls: cls(1.0, 1.0, 1.0, 1, 1))
    sys.exit(run.main(sys.argv[1:]))
