"""Builds a model twice, in surroundings that must not matter, and compares every byte of the two OUT folders.

    python -m benchmarks.reproduce [--work DIR] MODEL [options of patch-compile build]

The second build uses the recipe.yaml of the first, and has another number of threads, another working folder, name of OUT,
seed of Python's hashes, time zone, locale and umask. Prints which files are equal, and which files legitimately differ, with
the reason. Exit code 1 if anything else differs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

LEGITIMATE: Mapping[str, str] = {
    "report.json: seconds.*": "times",
    "report.json: path": "the place of OUT",
    "report.json: onnx.path": "the place of OUT",
    "manifest.json: *.report.json": "sha256 and size of a file with times",
    "manifest.json: *.report.html": "sha256 and size of a file with times",
    "manifest.json: stages.page.key": "made of the sha256 of a file with times",
    "report.html": "shows times and the place of OUT",
}
"""All that may differ between two builds of the same: differences as `compare` spells them, with the reason."""

ENGINES: Mapping[str, str] = {
    "engine/*": "TensorRT times its tactics anew, and writes an engine's bytes anew",
    "report.json: engine.*": "describes the engine",
    "manifest.json: *.engine/*": "sha256 and size of an engine",
}

REPAIR: Mapping[str, str] = {"report.json: notes.* (seconds)": "seconds of repair"}

SURROUNDINGS: Mapping[str, str] = {
    "OMP_NUM_THREADS": "2",
    "PYTHONHASHSEED": "4711",
    "TZ": "Asia/Kathmandu",
    "LC_ALL": "C",
}
_UMASK = 0o077


def compare(one: Path, other: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each file of two folders, by its path in them, with its differences: none, the file itself, or for a JSON
    file the keys whose values differ, as "FILE: a.b.c", or "FILE: a.b.c (seconds)" if only "in 3 s" differs in a text."""
    names = {
        str(file.relative_to(root)) for root in (one, other) for file in root.rglob("*") if file.is_file()
    }
    for name in sorted(names):
        a, b = one / name, other / name
        if not (a.is_file() and b.is_file()):
            yield name, [f"{name}: only in {one.name if a.is_file() else other.name}"]
        elif a.read_bytes() == b.read_bytes():
            yield name, []
        elif name.endswith(".json"):
            keys = [f"{name}: {key}" for key in _keys(json.loads(a.read_text()), json.loads(b.read_text()))]
            yield name, keys or [name]
        else:
            yield name, [name]


def _keys(a: Any, b: Any, at: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from _keys(a.get(key), b.get(key), f"{at}.{key}" if at else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, pair in enumerate(zip(a, b, strict=True)):
            yield from _keys(*pair, f"{at}.{place}")
    elif a != b:
        yield f"{at} (seconds)" if _without_seconds(a) == _without_seconds(b) else at


def _without_seconds(value: Any) -> Any:
    return re.sub(r" in \d+ s\b", "", value) if isinstance(value, str) else value


def sort_out(differences: Sequence[str], legitimate: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Returns the pattern that allows each legitimate difference, and the other differences."""
    allowed = {
        one: next((pattern for pattern in legitimate if fnmatchcase(one, pattern)), "") for one in differences
    }
    return {one: by for one, by in allowed.items() if by}, [one for one, by in allowed.items() if not by]


def run_build(arguments: Sequence[str], out: Path, cwd: Path, **environment: str) -> None:
    """Run `patch-compile build` as a process of its own. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "patch_compile", "build", *arguments, "-o", str(out)]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), **environment}
    umask = _UMASK if environment else -1
    subprocess.run(command, check=True, cwd=cwd, env=env, umask=umask, stdout=subprocess.DEVNULL)


def main() -> int:
    """Build twice, print the comparison, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, help="folder for both builds (default: a temporary folder)")
    known, rest = parser.parse_known_args()
    rest = [str(Path(one).resolve()) if Path(one).is_file() else one for one in rest]
    with tempfile.TemporaryDirectory() as temporary:
        work = (known.work or Path(temporary)).resolve()
        first, second = work / "first", work / "in/another/folder/second"
        second.parent.mkdir(parents=True, exist_ok=True)
        run_build([str(known.model.resolve()), *rest], first, Path.cwd(), OMP_NUM_THREADS="1")
        run_build(["--recipe", str(first / "recipe.yaml")], second, second.parent, **SURROUNDINGS)
        return _report(first, second)


def _report(first: Path, second: Path) -> int:
    legitimate = {**LEGITIMATE, **ENGINES, **REPAIR}
    wrong = 0
    for name, differences in compare(first, second):
        allowed, others = sort_out(differences, legitimate)
        print(f"{'differs' if others else 'equal but for' if allowed else 'equal':14}{name}")
        for pattern in dict.fromkeys(allowed.values()):
            print(f"{'':14}  {pattern} ({legitimate[pattern]})")
        for one in others:
            print(f"{'':14}  {one}: NOT REPRODUCED")
        wrong += len(others)
    print(f"{wrong} differences that nothing explains")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
