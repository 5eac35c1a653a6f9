"""Time limit, in seconds, for ONNX Runtime to load a model, or to run it once."""

from __future__ import annotations

import os
from pathlib import Path

from patch_compile.errors import PatchCompileError, UsageError

VARIABLE = "PATCH_COMPILE_ONNX_SECONDS"  # environment variable that sets another limit
_SECONDS = 900
MOST = 10**6  # longest limit, 11 days


def time_limit() -> float:
    """Returns the limit in seconds. Raises UsageError if the variable holds no valid limit."""
    given = os.environ.get(VARIABLE)
    if not given:
        return _SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MOST:
        raise UsageError(
            f"The environment variable {VARIABLE} is {given!r}",
            "It holds the number of seconds for which ONNX Runtime may load a model, or run it once.",
            f"Set it to a number above 0, at most {MOST:,}, or unset it: the default is {_SECONDS}.",
        )
    return seconds


def time_exceeded(path: Path, seconds: float) -> PatchCompileError:
    """Returns the error for a model that took longer than the limit."""
    return PatchCompileError(
        f"ONNX Runtime takes more than {seconds:g} s to load {path}, or to run it once",
        "A loop that never ends does that, and a large model on a slow machine.",
        f"Set the environment variable {VARIABLE} to more seconds, or give a model that ends.",
    )
