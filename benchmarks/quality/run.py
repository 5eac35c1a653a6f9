"""Measures every method at every ratio: perplexity, seconds and peak memory, each run in a process of its own.

    python -m benchmarks.quality.run MODEL_DIR --calib TEXT --eval TEXT [--tile 64x64 --tile 128x128] [--seeds 3]

Finished rows are kept in a JSON file next to the page (`--state`), keyed by everything that decides them except the
program's version, so that an interrupted sweep can continue; `--fresh` measures them again. The whole table is printed and
written to docs/explanation/quality.md. `--only 'oneshot*'` and `--ratio 0.45` measure matching rows only.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.machine import origin
from benchmarks.quality.entries import (
    ALL_KINDS,
    NO_REPAIR,
    NOT_DEPLOYABLE,
    PERMUTED,
    Entry,
    entries,
    entries_of_large,
)
from benchmarks.quality.frontier import draw, spots
from benchmarks.quality.page import page
from masklearn import LearnRecipe

ROW = "row.json"  # lies next to the masks and weights of the row
_SPARE_MINUTES = 0.4  # a repair's start and end, which do not count as its minutes
# The pass after a repair that rounds weights, and with int4 the start and end of training their scales. Measured on
# SmolLM2-135M with int4 and 16 windows: 125 and 20 seconds.
_ROUNDING_MINUTES = {"rounding": 2.1, "scales": 0.4}


class State:
    """Finished rows in a JSON file, which is rewritten after each row."""

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file() and not fresh:
            self.rows = json.loads(path.read_text(encoding="utf-8"))

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Keep a finished row, and the rows that another process has written meanwhile."""
        self.rows[key] = row
        kept = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(kept | {key: row}, indent=1), encoding="utf-8")
        part.replace(self.path)


@dataclass(frozen=True)
class Cell:
    """An entry with everything that decides its numbers except the program's version."""

    entry: Entry
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Key of the row in the state."""
        entry = self.entry
        decides = {
            "method": entry.method,
            "baseline": entry.baseline,
            "total": entry.total,
            **self.settings,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]

    def untrained(self) -> "Cell":
        """The cell of `oneshot` without repair that training starts from. Weights are rounded after it."""
        of_training = ("repair_minutes", "repair_steps", "steps", "weights")
        settings = {name: value for name, value in self.settings.items() if name not in of_training}
        settings |= {"method": "oneshot", "repair": "none"}
        method = NO_REPAIR
        if settings.get("permute"):
            method += ALL_KINDS if "kinds" in settings else PERMUTED
        return Cell(Entry(method, self.entry.ratio), settings)

    def __str__(self) -> str:
        ratio = "" if self.entry.ratio is None else f" at {self.entry.ratio}"
        return f"{self.entry.method}{ratio}, tile {self.settings['tile']}, seed {self.settings['seed']}"


def protocol(asked: argparse.Namespace) -> dict[str, Any]:
    """Settings that all rows of a page share: digests of texts and model, windows and lengths."""
    about = {name: getattr(asked, name) for name in ("windows", "length", "eval_windows", "eval_length")}
    return about | {"files": [_digest(Path(path)) for path in (asked.model, asked.calib, asked.evaluation)]}


def _named(asked: argparse.Namespace) -> dict[str, Any]:
    """The protocol with the names of model and texts, as rows keep it. Their digests are in the rows' keys."""
    names = {"model": asked.model.resolve().name, "calib": asked.calib.name, "eval": asked.evaluation.name}
    return names | {name: value for name, value in protocol(asked).items() if name != "files"}


def cells(asked: argparse.Namespace) -> list[Cell]:
    """All cells of the command line, the first seed of every tile size first."""
    about = protocol(asked)
    return [
        Cell(entry, {**about, **entry.settings, "tile": tile, "seed": seed})
        for seed in range(asked.seeds)
        for tile in asked.tile
        for entry in (entries_of_large(asked.minutes) if asked.large else entries(asked.total, asked.minutes))
        if (seed == 0 and (entry.tiled or tile == asked.tile[0])) or (entry.spread and tile == asked.tile[0])
    ]


def sweep(asked: argparse.Namespace, state: State) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure the rows of `--only` that are not known; returns all known rows of the page, and the failures."""
    table, failed = cells(asked), []
    missing = [cell for cell in _wanted(table, asked) if cell.key not in state.rows]
    for number, cell in enumerate(missing, start=1):
        print(f"[{number}/{len(missing)}] {cell}", file=sys.stderr, flush=True)
        try:
            state.put(cell.key, _run(asked, cell, state))
        except RunFailed as error:
            failed.append(f"{cell}: {error}")
    return [state.rows[cell.key] for cell in table if cell.key in state.rows], failed


class RunFailed(Exception):
    """A run that ended without a row. Its message is on stderr."""


def _wanted(table: Sequence[Cell], asked: argparse.Namespace) -> list[Cell]:
    """Cells of `--only` and `--ratio`, and the cells that their training starts from."""
    picked = [
        cell
        for cell in table
        if any(fnmatchcase(cell.entry.method, glob) for glob in asked.only)
        and (not asked.ratio or cell.entry.ratio in asked.ratio)
    ]
    needed = {cell.untrained().key for cell in picked if cell.entry.trains}
    return [cell for cell in table if cell in picked or cell.key in needed]


def _digest(path: Path) -> str:
    """Digest of a text, or of the weights and the tokenizer of a model, which decide its perplexity.

    The other files of a model depend on the versions of the packages that wrote them.
    """
    if path.is_dir():
        files = sorted([*path.glob("*.safetensors"), *path.glob("tokenizer.json")])
        return hashlib.sha256(
            "".join(f"{file.name} {_digest(file)}\n" for file in files).encode()
        ).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(asked: argparse.Namespace, cell: Cell, state: State) -> dict[str, Any]:
    """Run one cell in a process of its own and return its row."""
    entry, settings = cell.entry, cell.settings
    recipe = {name: value for name, value in settings.items() if name in LearnRecipe.model_fields}
    recipe["tile"] = [int(side) for side in settings["tile"].split("x")]
    recipe.setdefault("calib", str(asked.calib))
    spec: dict[str, Any] = {"model": str(asked.model), "recipe": recipe, "baseline": entry.baseline}
    before = _prior(asked, cell.untrained(), state) if entry.trains else None
    if before is not None and entry.repairs:
        spec["prior"] = str(_kept(asked, cell.untrained()))
        if entry.total is not None:
            after = sum(_ROUNDING_MINUTES.get(phase, 0.0) for phase in LearnRecipe.parse(recipe).phases())
            recipe["repair_minutes"] = _left_for_repair(entry.total, before["seconds"] / 60, after)
    spec["keep"] = str(_kept(asked, cell))
    spec["scratch"] = str(asked.scratch / cell.key)
    spec |= {
        "eval": str(asked.evaluation),
        "eval_windows": asked.eval_windows,
        "eval_length": asked.eval_length,
    }
    measured = _measured(spec)
    if before is not None:
        measured["before"] = {name: before[name] for name in ("perplexity", "seconds")}
        if entry.repairs:  # patch-joint computes its prior itself, so its figures include it
            measured["seconds"] = round(measured["seconds"] + before["seconds"], 1)
            measured["peak_gib"] = max(measured["peak_gib"], before["peak_gib"])
    about = {"method": entry.method, "ratio": entry.ratio, "tile": settings["tile"], "seed": settings["seed"]}
    about |= {"deployable": NOT_DEPLOYABLE not in entry.method}
    row = about | origin() | measured | {"under": _named(asked)}
    if (kept := _kept(asked, cell)).is_dir():  # a dense model, and some baselines, have no masks
        (kept / ROW).write_text(json.dumps(row), encoding="utf-8")
    return row


def _measured(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the spec in a process, with a scratch folder that is empty before and removed after."""
    folder = Path(spec["scratch"])
    shutil.rmtree(folder, ignore_errors=True)  # a resumed run would be timed wrongly
    folder.mkdir(parents=True)
    try:
        command = [
            sys.executable,
            "-m",
            "benchmarks.quality.child",
            json.dumps(spec),
            str(folder / "row.json"),
        ]
        if code := subprocess.run(command, check=False).returncode:
            raise RunFailed(f"exit code {code}")
        row: dict[str, Any] = json.loads((folder / "row.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def _kept(asked: argparse.Namespace, cell: Cell) -> Path:
    """Folder of the masks and weights of a row. Repairs start from the folder of the row without repair."""
    return Path(asked.scratch) / f"{cell.key}-solved"


def _prior(asked: argparse.Namespace, cell: Cell, state: State) -> dict[str, Any]:
    """The row without repair whose masks and weights are kept; measured again when they are gone.

    That does not replace a finished row, whose time may come from another machine.
    """
    kept = _kept(asked, cell) / ROW
    if not kept.is_file():
        row = _run(asked, cell, state)
        if cell.key not in state.rows:
            state.put(cell.key, row)
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _left_for_repair(total: float, used: float, after: float) -> float:
    """Minutes of a limit that remain after scoring and solving; after: minutes that rounding takes after the repair."""
    left = total - used - _SPARE_MINUTES - after
    if left <= 0:
        raise RunFailed(f"without repair it already took {used + after:.1f} minutes")
    return round(left, 2)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True, help="text to calibrate and repair on")
    parser.add_argument("--eval", dest="evaluation", type=Path, required=True, help="held-out text")
    parser.add_argument("--tile", action="append", help="ROWSxCOLS, may be repeated [64x64]")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--eval-windows", type=int, default=16)
    parser.add_argument("--eval-length", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=1, help="calibration seeds 0 … N-1, for the spread")
    parser.add_argument(
        "--total", type=float, nargs="*", default=[8.0], help="minutes in all, repair included"
    )
    parser.add_argument("--minutes", type=float, nargs="*", default=[30.0], help="minutes of repair only")
    parser.add_argument("--large", action="store_true", help="rows of a model whose row takes half an hour")
    parser.add_argument("--only", nargs="*", default=["*"], metavar="GLOB", help="rows by their name")
    parser.add_argument("--ratio", type=float, nargs="*", help="rows by their ratio [all]")
    parser.add_argument("--out", type=Path, default=Path("docs/explanation/quality.md"))
    parser.add_argument("--state", type=Path, help="finished rows [OUT with .json]")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that are finished")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/quality"))
    asked = parser.parse_args(argv)
    asked.tile = asked.tile or ["64x64"]
    asked.state = asked.state or asked.out.with_suffix(".json")
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the page; 1 when a row failed, 130 when interrupted."""
    asked = arguments(argv)
    state = State(asked.state, asked.fresh)
    try:
        rows, failed = sweep(asked, state)
    except KeyboardInterrupt:
        print(f"interrupted; finished rows are in {asked.state}", file=sys.stderr)
        return 130
    drawn, picture = [row for row in state.rows.values() if row.get("under") == _named(asked)], ""
    if spots(drawn) and not asked.large:
        picture = asked.out.with_suffix(".svg").name
        asked.out.with_name(picture).write_text(draw(drawn), encoding="utf-8")
    text = page(rows, asked, picture)
    asked.out.write_text(text, encoding="utf-8")
    print(text)
    for label in failed:
        print(f"failed: {label}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
