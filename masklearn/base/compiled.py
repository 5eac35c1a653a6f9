"""Compiles inner loops by numba, and keeps the machine code for later runs. No other module imports numba.

numba keeps machine code in pickles: in `__pycache__` next to the source, where Python keeps its own code; if that is not
writable, in the user's cache folder; or in the folder that NUMBA_CACHE_DIR names.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

# numba obeys a file .numba_config.yaml of the current folder. Who writes that file may name a folder of pickles, from which
# numba loads machine code, and a file that numba overwrites. numba reads the file when it is imported and when it compiles.
with chdir(Path(__file__).parent):
    import numba
    from numba.core import config

config._config_fname = os.devnull

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Decorator for a function that runs without Python's lock."""
    return _kept(numba.njit(nogil=True), function)


def compiled_arithmetic(function: _Function) -> _Function:
    """Decorator for a function of floating-point numbers, which runs without Python's lock.

    A product and a sum may become one operation. Division by 0 gives infinity or NaN.
    """
    return _kept(numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy"), function)


def _kept(compiles: Any, function: _Function) -> _Function:
    made: Any = compiles(function)
    with suppress(RuntimeError):  # no folder is writable, so each process compiles anew
        made.enable_caching()
    return cast(_Function, made)


inlined = numba.njit(inline="always")
"""Decorator for a function that becomes part of the compiled functions that call it."""
