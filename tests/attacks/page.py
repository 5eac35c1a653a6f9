"""The table of docs/status/reliability.md, from the results of `make torture`."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.page_part import renewed

__all__ = ["facts_of_run", "renew_page", "results_part"]

_PACKAGES = (
    "numpy",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "safetensors",
    "pyarrow",
    "tensorrt-rtx-cu13",
)
Line = dict[str, Any]


def facts_of_run(module: str, *, size: str, seconds: float, part: str = "") -> Line:
    """Returns what a table says of the run of a module: its size, day, machine and versions.

    part: name of the part of the module that ran, empty for the whole.
    """
    now = datetime.now(UTC)
    return {
        "module": module,
        "part": part,
        "size": size,
        "seconds": round(seconds),
        "ended": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "machine": machine(),
        "versions": {"Python": platform.python_version(), **_versions()},
    }


def renew_page(page: Path, results: Path) -> None:
    """Write the table of the results into its part of the page. Raises ValueError if there are no results."""
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    part = results_part(lines)
    page.write_text(renewed(page.read_text(), "torture", part))


def results_part(lines: Sequence[Line]) -> str:
    """Returns the table of the last run of each module, and of the parts of it that ran after that.

    lines: results in the order of the file; those without facts of their run are left out. Raises ValueError if none is
    left.
    """
    ran = [line for line in lines if "run" in line]
    last = {_part(line): line["run"]["ended"] for line in ran}
    taken = [
        line
        for line in ran
        if line["run"]["ended"] == last[_part(line)] >= last.get((line["run"]["module"], ""), "")
    ]
    if not taken:
        raise ValueError("there are no results: run `make torture`")
    rows = [_row(line) for line in taken]
    tried, held = (sum(line[key] for line in taken) for key in ("tried", "held"))
    broken = [one for line in taken for one in _broken(line)]
    listed = "\n\nBroken:\n\n" + "\n".join(broken) if broken else ""
    return (
        "\n".join(_origins(taken))
        + "\n\n| module | attack | size | tried | held | broken |\n| --- | --- | --- | --: | --: | --: |\n"
        + "\n".join(rows)
        + f"\n| | **all** | | **{tried:,}** | **{held:,}** | **{tried - held:,}** |{listed}"
    )


def _part(line: Line) -> tuple[str, str]:
    return line["run"]["module"], line["run"].get("part", "")


def _broken(line: Line) -> Iterator[str]:
    """Yield a list item for each kind of break, with the number of times if it came more than once."""
    root = f"{Path(__file__).parents[2]}/"
    for what, count in Counter(line["broken"]).items():
        times = f" ({count} times)" if count > 1 else ""
        yield f"- {_cell(line['attack'])}: `{what.replace(root, '')[:300]}`{times}"


def _row(line: Line) -> str:
    tried, held = line["tried"], line["held"]
    run = line["run"]
    return f"| {run['module']} | {_cell(line['attack'])} | {run['size']} | {tried:,} | {held:,} | {tried - held:,} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _origins(lines: Iterable[Line]) -> Iterable[str]:
    """Yield a line for each combination of day, machine and versions."""
    found: dict[str, list[str]] = {}
    for run in (line["run"] for line in lines):
        versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        origin = f"{run['ended'][:10]}, {run['machine']}, {versions}"
        names = found.setdefault(origin, [])
        if run["module"] not in names:
            names.append(run["module"])
    for origin, names in found.items():
        yield f"{', '.join(names)}: {origin}."


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
