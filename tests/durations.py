"""Writes how long tests took to durations.txt, from pytest's JUnit file: `python -m tests.durations JUNIT.xml`.

Preparing and ending of a test count. A fixture that several tests share counts for the first of them.
"""

import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

_FILE, _TEST = 1.0, 5.0  # seconds from which a file and a test have a line


def report(junit: Path) -> str:
    """Returns the sums by file, and the slow tests, the slowest first."""
    files: dict[str, list[float]] = {}
    slow = []
    for case in ElementTree.parse(junit).iter("testcase"):
        module = re.sub(r"(\.test_\w+).*", r"\1", case.attrib["classname"])  # without classes
        file, seconds = f"{module.replace('.', '/')}.py", float(case.attrib["time"])
        files.setdefault(file, []).append(seconds)
        slow += [(seconds, f"{file}::{case.attrib['name']}")] * (seconds >= _TEST)
    sums = sorted(((sum(own), len(own), file) for file, own in files.items()), reverse=True)
    lines = [
        "# Written by `python -m tests.durations`. Tests run in several processes: their seconds are more than the run's.",
        f"# {sum(one[1] for one in sums)} tests, {sum(one[0] for one in sums):.0f} s in all; {_where()}",
        "",
        f"# Files from {_FILE:.0f} s: seconds, tests, file",
        *(f"{seconds:7.1f} {count:5} {file}" for seconds, count, file in sums if seconds >= _FILE),
        "",
        f"# Tests from {_TEST:.0f} s",
        *(f"{seconds:7.1f} {test}" for seconds, test in sorted(slow, reverse=True)),
    ]
    return "\n".join(lines) + "\n"


def _where() -> str:
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{cpu[1] if cpu else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores, {datetime.now(UTC):%Y-%m-%d}"


if __name__ == "__main__":
    Path(__file__).with_suffix(".txt").write_text(report(Path(sys.argv[1])), encoding="utf-8")
