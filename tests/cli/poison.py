"""A folder whose Python modules leave a mark when they are imported, and then are what they pretend to be."""

import importlib.metadata
import sys
from pathlib import Path

MARKS = "POISONED"  # environment variable with the file of the marks

_CODE = """
import sys
from posix import environ, getpid

with open(environ[b"POISONED"], "a") as file:
    print(getpid(), __name__, file=file)
paths = sys.path[:]
sys.path[:] = [path for path in paths if path not in ("", {folder!r})]
del sys.modules[__name__]
try:
    __import__(__name__)
finally:
    sys.path[:] = paths
"""
_INSTALLED = frozenset(importlib.metadata.packages_distributions())
_OURS = {"patch_compile", "masklearn", "samples", "benchmarks"}
_AT_STARTUP = {"sitecustomize", "usercustomize"}
NAMES = {
    name
    for name in sys.stdlib_module_names | _INSTALLED | _OURS | _AT_STARTUP
    if name.isidentifier() and name not in sys.builtin_module_names
}
"""Every module that anything here may import: Python's own, the installed ones and this project's."""


def poison(folder: Path) -> None:
    """Write a module for each name that is not taken there: Python's as files, the others as folders."""
    code = _CODE.format(folder=str(folder))
    for name in NAMES:
        if name in sys.stdlib_module_names:
            (folder / f"{name}.py").write_text(code)
        elif not (folder / name).exists():
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
    (folder / "x.pth").write_text("import pickle\n")


def marked(marks: Path) -> set[tuple[int, str]]:
    """Returns the process and the name of each module that was imported from the folder."""
    if not marks.exists():
        return set()
    lines = [line.split() for line in marks.read_text().splitlines()]
    return {(int(process), name) for process, name in lines}
