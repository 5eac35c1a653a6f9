"""Reports as a person reads them in a terminal, or as JSON on stdout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["print_masks", "print_plugin", "print_report"]

Row = Mapping[str, Any]
_PIPE_WIDTH = 120


def print_report(report: Row, *, as_json: bool) -> None:
    """The result of a build: linears, perplexity, engine, generated text."""
    if as_json:
        print(json.dumps(report, indent=1))
        return
    console = _console()
    console.print(_linears_table(report["linears"]))
    _print_skipped(console, report["skipped"])
    for line in _summary(report):
        console.print(line, soft_wrap=True)


def print_masks(summary: Row, path: Path, *, as_json: bool) -> None:
    """The result of `learn`."""
    if as_json:
        print(json.dumps({"path": str(path), **summary}, indent=1))
        return
    console = _console()
    console.print(_linears_table(summary["linears"]))
    _print_skipped(console, summary["skipped"])
    console.print(
        f"masks: {path}, ratio {summary['ratio']['reached']:.4f} (asked {summary['ratio']['asked']:g})"
    )


def print_plugin(result: Row, *, as_json: bool) -> None:
    """The result of `plugin`: where the library is."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    archs = ", ".join(f"sm{arch}" for arch in result["archs"])
    _console().print(f"plugin for {result['backend']}, {archs}: {result['path']}", soft_wrap=True)


def _console() -> Console:
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # a pipe has no width; 80 columns would cut the table
        console.width = _PIPE_WIDTH
    return console


def _linears_table(linears: Iterable[Row]) -> Table:
    """One row per kind of linear and lowering: `layers.7.mlp.up_proj` and its sisters are one kind."""
    table = Table(box=SIMPLE_HEAD)
    for header in ("linear", "count", "shape", "ratio", "2:4 tiles", "lowering", "MB before", "MB after"):
        table.add_column(header, no_wrap=True, justify="left" if header == "linear" else "right")
    linears = list(linears)
    for (kind, shape, lowering), rows in _by_kind(linears).items():
        table.add_row(kind, str(len(rows)), shape, *_ratio_and_tiles(rows), lowering, *_megabytes(rows))
    table.add_section()
    table.add_row("all", str(len(linears)), "", *_ratio_and_tiles(linears), "", *_megabytes(linears))
    return table


def _by_kind(linears: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    kinds: dict[tuple[str, str, str], list[Row]] = {}
    for row in linears:
        kind = re.sub(r"\.\d+\.", ".*.", row["name"])
        shape = "×".join(map(str, row["shape"]))
        kinds.setdefault((kind, shape, row.get("lowering", "")), []).append(row)
    return kinds


def _ratio_and_tiles(rows: list[Row]) -> tuple[str, str]:
    weights = sum(row["shape"][0] * row["shape"][1] for row in rows)
    zeroed = sum(row["zeroed"] for row in rows)
    sparse, tiles = (sum(row["tiles"][key] for row in rows) for key in ("sparse", "all"))
    return (f"{zeroed / weights:.3f}" if weights else "", f"{sparse}/{tiles}")


def _megabytes(rows: list[Row]) -> tuple[str, str]:
    if not rows or "bytes_after" not in rows[0]:
        return "", ""
    before, after = (sum(row[key] for row in rows) / 1e6 for key in ("bytes_before", "bytes_after"))
    return f"{before:.1f}", f"{after:.1f}"


def _print_skipped(console: Console, skipped: Iterable[Row]) -> None:
    for row in skipped:
        console.print(f"left dense: {row['name']}: {row['reason']}", soft_wrap=True)


def _summary(report: Row) -> Iterable[str]:
    ratio, ppl, agree = report["ratio"], report["perplexity"], report["agreement"]
    yield f"ratio: {ratio['reached']:.4f} (asked {ratio['asked']:g}), method {report['method']}"
    yield f"perplexity: dense {ppl['dense']:.2f}, hybrid {ppl['hybrid']:.2f} ({ppl['text']})"
    yield (
        f"compiled right: yes, hybrid ONNX and pruned checkpoint differ by {agree['error']:.2e} of the largest "
        f"logit (allowed {agree['tolerance']:.2e}: {agree['why']})"
    )
    difference = report["difference"]
    yield f"pruned how much: same next token as dense at {difference['top1_agreement']:.0%} of positions"
    engine = report["engine"]
    if engine is None:
        yield f"onnx: {report['onnx']['path']}, {report['onnx']['bytes'] / 1e6:.1f} MB (no engine: backend onnx)"
    else:
        yield (
            f"engine: {engine['path']}, {engine['bytes'] / 1e6:.1f} MB, {engine['backend']} for "
            f"{', '.join(engine['targets'])}"
        )
    for kind in ("dense", "hybrid"):
        yield f"{kind} says: {report['generated']['prompt']}{report['generated'][kind]}"
    yield f"report: {report['path']}"
