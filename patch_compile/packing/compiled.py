"""Compiles inner loops by numba, and keeps the machine code for later runs. No other module imports numba."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path

# numba obeys a file .numba_config.yaml of the current folder. Who writes that file may name a folder of pickles, from which
# numba loads machine code, and a file that numba overwrites. numba reads the file when it is imported and when it compiles.
with chdir(Path(__file__).parent):
    import numba
    from numba.core import config

config._config_fname = os.devnull

compiled = numba.njit(nogil=True, cache=True)
"""Decorator for a function that runs without Python's lock."""

inlined = numba.njit(inline="always")
"""Decorator for a function that becomes part of the compiled functions that call it."""
