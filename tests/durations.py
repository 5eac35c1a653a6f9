"""Writes how long tests took, from pytest's JUnit file: `python -m tests.durations JUNIT.xml [OUT.txt]`.

Preparing and ending of a test count. A fixture that several tests share counts for the first of them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.machine import origin

_OUT = Path(__file__).with_name("durations.txt")
_FILE, _TEST = 1.0, 5.0  # seconds from which a file and a test have a line


def _cases(junit: Path) -> Iterator[tuple[str, str, float]]:
    """Yield file, name and seconds of each test."""
    for case in ElementTree.parse(junit).iter("testcase"):
        module, _, classes = case.attrib["classname"].partition(".test_")
        file = f"{module}.test_{classes.partition('.')[0]}".replace(".", "/")
        yield f"{file}.py", case.attrib["name"], float(case.attrib["time"])


def report(junit: Path) -> str:
    """Returns the sums by file, and the slow tests, the slowest first."""
    files: dict[str, list[float]] = {}
    tests = sorted(_cases(junit), key=lambda case: -case[2])
    for file, _, seconds in tests:
        files.setdefault(file, []).append(seconds)
    slow = [(sum(own), len(own), file) for file, own in files.items() if sum(own) >= _FILE]
    lines = [
        "# Written by `make durations`. Tests run in several processes: their seconds add up to more than the run's.",
        f"# {len(tests)} tests, {sum(map(sum, files.values())):.0f} s in all; {' '.join(origin().values())}",
        "",
        f"# Files from {_FILE:.0f} s: seconds, tests, file",
        *(f"{seconds:7.1f} {count:5} {file}" for seconds, count, file in sorted(slow, reverse=True)),
        "",
        f"# Tests from {_TEST:.0f} s",
        *(f"{seconds:7.1f} {file}::{name}" for file, name, seconds in tests if seconds >= _TEST),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    junit, out = Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else _OUT
    out.write_text(report(junit), encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main(sys.argv[1:])
