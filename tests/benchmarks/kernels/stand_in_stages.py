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
from types import ModuleType, SimpleNamespace
from typing import Any

FOLDER = Path(os.environ.get("STAND_IN", "."))
BENCH = Path(__file__).parents[3] / "benchmarks" / "kernels"
NAMES = ("fine", "crashes", "gives NaN", "hangs", "raises", "kills the context", "last")
SHARES = dict.fromkeys(map(str, (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)), 1e-6)
# What the tables of all stages show.
FIGURES = {
    "seconds": 1e-6, "slabs": [1, 1], "panels": 1, "beyond": False, "chosen": True, "block_tokens": 16,
    "cublas": 1e-6, "cusparselt": None, "hybrid": SHARES, "schedule": dict.fromkeys(SHARES, ("one", 1)), "limit": SHARES,
    "dense": 1e-6, "prefill": 1e-3, "step": 1e-3, "tokens_per_second": 1.0, "faults": [], "worst": 0.5, "useless": False,
    "copies": 1.0, "reads": 1.0, "flops": 1.0, "sms": 1, "l2": 1,
}  # fmt: skip
lost = False


class Anything:
    """Stands in for what the benchmark takes from PyTorch when it is imported. To import PyTorch takes seconds."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_: object, **__: object) -> Any:
        return lambda decorated: decorated


class AnyModule(ModuleType, Anything):
    """A module of it."""

    __path__ = ()  # it is a package


TORCH: Any = AnyModule("torch")
TORCH.__version__, TORCH.version = "stand-in", SimpleNamespace(cuda=None)
TORCH.cuda = SimpleNamespace(
    is_available=lambda: True,
    get_device_properties=lambda _: SimpleNamespace(name="stand-in", major=9, minor=0),
)


def key(name):
    shown = {
        "shape": [64, 64],
        "share": 0.5,
        "tokens": 16,
        "type": "float16",
        "after": "it",
        "linears": "none",
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
    return FIGURES | ({"worst": math.nan} if name == "gives NaN" else {})


def rows_of(*_):
    return ((key(name), partial(figures, name)) for name in NAMES)


if __name__ == "__main__":
    if (FOLDER / "can't start").exists():
        raise ImportError("libcudart.so is missing")
    sys.path.insert(0, str(BENCH))
    functional = AnyModule("torch.nn.functional")
    sys.modules |= {"torch": TORCH, "torch.nn": AnyModule("torch.nn"), "torch.nn.functional": functional}
    run, gpu = importlib.import_module("run"), importlib.import_module("gpu")
    run.Kernels, run.usable, run._rows_of = (lambda _: None), (lambda: not lost), rows_of
    gpu.MeasuredGpu.measure = classmethod(lambda cls: cls(1.0, 1.0, 1.0, 1, 1))
    sys.exit(run.main(sys.argv[1:]))
