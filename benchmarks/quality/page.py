"""Writes the page of the quality benchmark: tables in Markdown of the rows that `benchmarks.quality.run` measured."""

import argparse
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quality.entries import ALL_KINDS, BYTES, NO_REPAIR, NOT_DEPLOYABLE, entries_of_large
from benchmarks.quality.frontier import HIGHEST
from benchmarks.quality.large_model import ABOUT, speeds, table

Row = Mapping[str, Any]
_OWN = "own ratio"
_PACKAGES = ("torch", "transformers", "accelerate", "numpy")
_BUDGETS = (5, 10, 45)  # minutes
_WHAT = """A row is a process of its own: its memory is its own, and its seconds cover learning (text, scores,
solve, training) without evaluation; a repair goes on from what the row without repair left, and its time and memory
count as its own. Seconds depend on what else the machine does. Perplexity is exp of the mean negative
log-likelihood; the evaluation text is never calibrated or trained on."""
_PICTURE = f"""Marks are rows of the tables below, at the median of their seeds. Full marks multiply in int8 (W8A8), empty
marks in fp16. Tiles in fp16 were learned for 8 minutes in all and permuted, tiles in W8A8 were repaired in 13 steps.
Rows above {HIGHEST:g} lie at the upper edge and say their perplexities. Speeds are predicted, not measured, and for a large
model whose linears have the same shares of kinds: the model of the tables is too small to gain. Dense W8A8 has the time of
other programs' kernels.
Made by `python -m benchmarks.quality.frontier`; with `--check` it says if the picture shows the rows."""
_KINDS = """`kinds auto`: tiles of all kinds, in as many bytes as dense and 2:4 tiles take at the ratio of the column
([learning.md](../howto/learning.md#kinds-of-tiles)); another share of the weights is zeroed. These rows are permuted, as
a build for decoding is. Rows with `int8` or `int4` have weights of that type, and the tiles of a 16-bit row."""
_BYTES = """The next table shows what `w8a8` costs over 16 bits, with the same masks and the same number of repair steps.
Weights and masks are learned in 16 bits, then smoothed, repaired and rounded. `learn --weights w8a8` scores the smoothed
model, and so takes other tiles."""
_MODELS = {
    "qwen2.5-coder-1.5b": "its weights were Q4_K and Q6_K before they were converted to bf16, so `dense` is a model of "
    "4-bit and 6-bit weights, and `int4` loses less than it would of a model of 16-bit weights",
    "smollm2-135m": "its weights were Q4_1 (a scale and a minimum for 32 columns) before they were converted to 16 bits, so "
    "`dense` is a model of 4-bit weights, and `int4` rounds them a second time, to another grid",
}
_NOTES = Path(__file__).with_name("smollm2-135m.md")  # measured by programs that have left, and by hand


def page(rows: Sequence[Row], asked: argparse.Namespace, picture: str = "") -> str:
    """The whole page; asked: the command line; picture: the file next to it, if any."""
    machines = _machines(rows)
    parts = [_heading(rows, asked, machines)]
    if picture:
        parts += [
            "## Loss against speed",
            f"![Perplexity against the predicted speed of prompts]({picture})",
            _PICTURE,
        ]
    if asked.large:
        measured = {(row["method"], row["ratio"]) for row in rows}
        entries = [one for one in entries_of_large(asked.minutes) if (one.method, one.ratio) in measured]
        predicted = speeds(asked.model, entries)
        return "\n\n".join([*parts, ABOUT, table(rows, predicted)]) + "\n"
    for tile in dict.fromkeys(row["tile"] for row in rows):
        these = [row for row in rows if row["tile"] == tile]
        parts += [
            f"## Tiles {tile}",
            "Perplexity. Several seeds: median (lowest … highest).",
            _perplexities(these),
        ]
        if any(ALL_KINDS in row["method"] for row in these):
            parts.append(_KINDS)
        parts += [
            f"Seconds of learning, peak memory of it in GiB{_where(machines)}.",
            _costs(these, machines),
        ]
        parts += _sections(these)
    if asked.model.resolve().name == "smollm2-135m":
        parts.append(_NOTES.read_text(encoding="utf-8").rstrip())
    return "\n\n".join(parts) + "\n"


def _sections(rows: Sequence[Row]) -> list[str]:
    parts = []
    if gains := _gains(rows):
        parts += ["What training brings over `oneshot` without repair, at the same ratio and seed 0.", gains]
    if best := _best(rows):
        parts += ["The lowest perplexity of a deployable result within a time.", best]
    if costs := _costs_of_bytes(rows):
        parts += [_BYTES, costs]
    return parts


def _heading(rows: Sequence[Row], asked: argparse.Namespace, machines: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    name = asked.model.resolve().name
    return "\n".join(
        [
            f"# Quality of {name}" if asked.large else "# Quality",
            "",
            f"Written by `{_command(asked)}` on {datetime.now(UTC):%Y-%m-%d}.",
            "",
            f"- model: {name}; covered: the linears of its blocks"
            + (f"; {_MODELS[name]}" if name in _MODELS else ""),
            f"- calibration: {asked.calib.name}, {asked.windows} windows × {asked.length} tokens",
            f"- evaluation: {asked.evaluation.name}, first {asked.eval_windows} windows × {asked.eval_length} tokens, fp32",
            *_machine_lines(rows, machines),
            f"- Python {platform.python_version()}, {versions}",
            "",
            _WHAT,
        ]
    )


def _command(asked: argparse.Namespace) -> str:
    """The command that measures all rows: without `--only`, and with file names instead of paths."""
    words = ["python -m benchmarks.quality.run", asked.model.resolve().name, "--calib", asked.calib.name]
    words += ["--eval", asked.evaluation.name, *(f"--tile {tile}" for tile in asked.tile)]
    for name in ("windows", "length", "eval_windows", "eval_length", "seeds"):
        words.append(f"--{name.replace('_', '-')} {getattr(asked, name)}")
    words += ["--total", *map("{:g}".format, asked.total), "--minutes", *map("{:g}".format, asked.minutes)]
    words += ["--large", f"--out {asked.out.name}"] if asked.large else []
    return " ".join(words)


def _perplexities(rows: Sequence[Row]) -> str:
    def cell(found: Sequence[Row]) -> str:
        own = f" at {found[0]['reached']:.3f}" if found[0]["ratio"] is None else ""
        return _spread([row["perplexity"] for row in found]) + own

    return _table(rows, cell)


def _machines(rows: Sequence[Row]) -> dict[str, str]:
    """A letter for each machine, or "" when there is only one."""
    found = list(dict.fromkeys(row["machine"] for row in rows))
    return {name: chr(ord("a") + i) if len(found) > 1 else "" for i, name in enumerate(found)}


def _machine_lines(rows: Sequence[Row], machines: Mapping[str, str]) -> Iterable[str]:
    for name, mark in machines.items():
        days = sorted({row["date"] for row in rows if row["machine"] == name})
        yield f"- {f'machine {mark}'.strip()}: {name}; {' … '.join(dict.fromkeys((days[0], days[-1])))}"


def _where(machines: Mapping[str, str]) -> str:
    return ", machine" if len(machines) > 1 else ""


def _costs(rows: Sequence[Row], machines: Mapping[str, str]) -> str:
    def cell(found: Sequence[Row]) -> str:
        marks = "".join(sorted({machines[row["machine"]] for row in found}))
        cost = f"{median(r['seconds'] for r in found):.0f} s, {max(r['peak_gib'] for r in found):.1f}"
        return f"{cost}, {marks}" if marks else cost

    return _table(rows, cell)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def _table(rows: Sequence[Row], cell: Any) -> str:
    """A table with a row per method and a column per ratio; methods with a ratio of their own fill the first column."""
    ratios = sorted({row["ratio"] for row in rows if row["ratio"] is not None}, reverse=True)
    lines = [_line(["", _OWN, *(f"{ratio:.2f}" for ratio in ratios)]), _line(["---"] * (2 + len(ratios)))]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method]
        for ratio in (None, *ratios):
            found = [row for row in rows if (row["method"], row["ratio"]) == (method, ratio)]
            cells.append(cell(found) if found else "")
        lines.append(_line(cells))
    return "\n".join(lines)


def _gains(rows: Sequence[Row]) -> str:
    """Table of the perplexity that training gains over its prior, per minute."""
    first = [row for row in rows if row["seed"] == 0]
    priors = {(row["ratio"], row["method"]): row for row in first if row["method"].startswith(NO_REPAIR)}
    lines = []
    for row in first:
        alike = [
            name
            for ratio, name in priors
            if ratio == row["ratio"] and row["method"].endswith(name.removeprefix(NO_REPAIR))
        ]
        prior = row.get("before") or priors.get((row["ratio"], max(alike, key=len, default="")))
        trained = row["method"].startswith(("oneshot", "patch", "maskllm"))
        trained = trained and not row["method"].startswith(NO_REPAIR)
        if prior is None or not trained:
            continue
        minutes = (row["seconds"] - prior["seconds"]) / 60
        gain = prior["perplexity"] - row["perplexity"]
        per_minute = f"{gain / minutes:z.2f}" if minutes > 0 else ""
        values = [f"{row['ratio']:.2f}", f"{prior['perplexity']:.2f}", f"{row['perplexity']:.2f}"]
        record = row.get("repair") or row.get("train") or {}
        rate = f"{record['learning_rate']:.2g}" if "learning_rate" in record else ""
        trained_as = [str(record.get("steps", "")), rate]
        lines.append(_line([row["method"], *values, *trained_as, f"{minutes:.1f}", per_minute]))
    if not lines:
        return ""
    header = ["", "ratio", "before", "after", "steps", "rate", "more minutes", "gain per minute"]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _costs_of_bytes(rows: Sequence[Row]) -> str:
    """Table of the perplexity of rows of w8a8 next to the rows in 16 bits that they come from."""
    first = {(row["method"], row["ratio"]): row for row in rows if row["seed"] == 0}
    lines = []
    for (method, ratio), row in first.items():
        name = method.removesuffix(BYTES)
        base = row.get("before") if name == NO_REPAIR else first.get((name, ratio))
        if name == method or base is None:
            continue
        values = [f"{one['perplexity']:.2f}" for one in (base, row)]
        change = row["perplexity"] / base["perplexity"] - 1
        lines.append(_line([name, "" if ratio is None else f"{ratio:.2f}", *values, f"{change:+.1%}"]))
    if not lines:
        return ""
    return "\n".join([_line(["", "ratio", "16 bits", "w8a8", "change"]), _line(["---"] * 5), *lines])


def _best(rows: Sequence[Row]) -> str:
    usable = [row for row in rows if row["ratio"] is not None and row["seed"] == 0 and _ranked(row)]
    lines = []
    for ratio in sorted({row["ratio"] for row in usable}, reverse=True):
        cells = [f"{ratio:.2f}"]
        for budget in _BUDGETS:
            within = [row for row in usable if row["ratio"] == ratio and row["seconds"] <= 60 * budget]
            best = min(within, key=lambda row: row["perplexity"], default=None)
            cells.append("" if best is None else f"{best['method']}: {best['perplexity']:.2f}")
        lines.append(_line(cells))
    if not lines:
        return ""
    header = ["ratio", *(f"{budget} minutes" for budget in _BUDGETS)]
    return "\n".join([_line(header), _line(["---"] * len(header)), *lines])


def _ranked(row: Row) -> bool:
    """True when the row's perplexity may be compared with others'."""
    return NOT_DEPLOYABLE not in row["method"]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
