"""Runs the installed program with each line of stdin as its arguments, and prints its exit codes."""

import os
import runpy
import sys
from pathlib import Path

from tests.commands import PROGRAM

if __name__ == "__main__":
    codes = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        sys.argv = [str(PROGRAM), *line.split()]
        try:
            runpy.run_path(str(PROGRAM), run_name="__main__")
        except SystemExit as end:
            print(end.code or 0, file=codes, flush=True)
        assert not {"", str(Path.cwd())} & {*sys.path}, line
