"""Sections of the page that are tables: baselines, the largest errors, times, the origin of the build, and its plan."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from masklearn import Baseline
from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.layout import CARD, PAGE, RECIPE
from patch_compile.artifacts.plan import LinearRow
from patch_compile.artifacts.verify_schema import ErrorAttribution
from patch_compile.report.bench import bench_notes, clock_words, timed_words
from patch_compile.report.learned import learned_lines
from patch_compile.report.page.number_format import change, milliseconds
from patch_compile.report.page.page_data import Row, Sources
from patch_compile.report.prediction import (
    WHOLE_PHASES,
    lowering_words,
    node_words,
    reason_lines,
    reason_words,
    remarks,
)
from patch_compile.report.sparse_products import split_lines
from patch_compile.report.verify import where_words
from patch_compile.report.weight_types import loss_lines

__all__ = ["baseline_rows", "lost_where", "origin", "plan_table", "speed"]

_PHASES = {"prefill": "prefill", "decode": "decode step"}
# Columns of the table of measured times that may be empty.
_COLUMNS = ("dense", "uniform", "predicted", "limit")
_LISTED = 12
_ABOUT: dict[str, str] = {
    Baseline.DENSE: "the model as it is",
    Baseline.ROUNDED: "nothing pruned: what rounding alone costs",
    Baseline.UNIFORM: "every tile 2:4, SparseGPT's weights",
    Baseline.UNIFORM_8_16: "every tile 8:16, SparseGPT's weights",
    Baseline.UNIFORM_12_16: "every tile 12:16, SparseGPT's weights",
    Baseline.FFN_ONLY: "2:4 in the feed-forward part alone",
    Baseline.MAGNITUDE_TILES: "tiles ranked by mean |w|",
    Baseline.RANDOM_TILES: "tiles drawn at random",
    Baseline.UNSTRUCTURED: "no structure: a reference that no kernel runs",
}


def baseline_rows(sources: Sources) -> dict[str, Any] | None:
    """Returns {rows, how, sizes, lines}, or None without `verify`. Rows have a name and the change against dense, the result
    first; sizes: True if bytes of packed weights are known; lines: what of the loss is rounding's."""
    found = sources.baselines
    if found is None:
        return None
    dense = next((row.perplexity for row in found.rows if row.name == Baseline.DENSE), None)
    rows = [
        {
            **row.model_dump(),
            "result": place == 0,
            "about": "this build" if place == 0 else _ABOUT.get(row.name, ""),
            "change": change(row.perplexity, dense) if dense else "–",
        }
        for place, row in enumerate(found.rows)
    ]
    return {
        "rows": rows,
        "how": f"{found.windows} windows of {found.length} tokens, {found.dtype}",
        "sizes": any(row.bytes_per_weight for row in found.rows),
        "lines": list(loss_lines(found)),
    }


def lost_where(where: ErrorAttribution | None) -> dict[str, Any] | None:
    """Returns {rows, of, listed, tried}, or None without `verify`.

    rows: linears with the largest shares; of: number of all linears; listed: the rows' share of the error; tried: True
    if any linear was pruned or restored alone.
    """
    if where is None or not where.linears:
        return None
    rows = sorted(where.linears, key=lambda row: row.share, reverse=True)[:_LISTED]
    return {
        "rows": rows,
        "of": len(where.linears),
        "listed": sum(row.share for row in rows),
        "tried": where.tokens is not None,
        "how": where_words(where),
    }


def speed(sources: Sources) -> dict[str, Any]:
    """Returns {predicted, how, remarks, bench}. predicted: rows; bench: None if nothing was timed."""
    plan, whole = sources.plan, sources.whole
    rows = whole.as_json() if whole else {}
    return {
        "predicted": [{"phase": WHOLE_PHASES[phase], **rows[phase]} for phase in sources.phases if rows],
        "how": f"{plan.card}; {plan.workload}" if whole else "",
        "remarks": remarks(sources.linears, plan),
        "bench": _bench(sources.bench) if sources.bench else None,
    }


def _bench(bench: BenchReport) -> dict[str, Any]:
    rows = bench.rows
    return {
        "what": f"{timed_words(bench).rstrip('.')}.",
        "device": bench.device.name,
        "clocks": ", ".join(clock_words(bench.clocks)).replace(" … ", " to "),
        "gpu": bench.runner.on_gpu,
        "rows": rows,
        "has": {name: any(getattr(row, name) for row in rows) for name in _COLUMNS},
        "notes": list(bench_notes(bench)),
    }


def origin(sources: Sources) -> dict[str, Any]:
    """Returns {model, seed, recipe, command, versions, texts, learned, notes, seconds, files} for the template.

    The page lists neither itself nor the model card among the files: both are written last.
    """
    report, manifest = sources.report, sources.manifest
    files = {name: digest for name, digest in manifest.files.items() if name not in (PAGE, CARD)}
    return {
        "model": report.model,
        "seed": manifest.seed,
        "recipe": sources.recipe_text,
        "command": f"patch-compile build --recipe {sources.out / RECIPE} -o OUT",
        "versions": manifest.versions,
        "texts": list(_texts(sources)),
        "learned": list(learned_lines(report.learned)),
        "notes": list(_notes(sources)),
        "seconds": list(_seconds(sources)),
        "files": files,
    }


def _texts(sources: Sources) -> Iterator[dict[str, Any]]:
    """Yield the texts that were read, each with its purpose."""
    text = sources.manifest.text
    for used, record in (("calibration", text.calib), ("evaluation", text.eval)):
        if record:
            yield {"used": used, **_about_text(record.model_dump())}
    if sources.verify and (found := sources.verify.text):
        yield {"used": "verification", **_about_text(found.model_dump(exclude_none=True))}


def _about_text(record: Row) -> dict[str, Any]:
    about = [
        f"{record['windows']} window{'s' * (record['windows'] != 1)} of {record['length']} tokens"
        if "windows" in record and "length" in record
        else "",
        f"{record['tokens']:,} tokens in all" if record.get("tokens") else "",
    ]
    name = record.get("name") or record.get("source") or "text"
    return {"name": name, "sha256": record.get("sha256"), "about": ", ".join(filter(None, about))}


def _notes(sources: Sources) -> Iterator[tuple[str, str]]:
    verify = sources.verify.notes if sources.verify else ()
    bench = sources.bench.notes if sources.bench else ()
    for step, notes in (("build", sources.report.notes), ("verify", verify), ("bench", bench)):
        yield from ((step, note) for note in notes)


def _seconds(sources: Sources) -> Iterator[tuple[str, str, float]]:
    verify = sources.verify.seconds if sources.verify else {}
    for step, seconds in (("build", sources.report.seconds), ("verify", verify)):
        yield from ((step, stage, value) for stage, value in seconds.items())


def plan_table(sources: Sources) -> dict[str, Any]:
    """Returns {rows, phases, sums, lines, skipped}.

    phases: the phases with known times; lines: reasons and splits by kind. A cell of numbers is (value, text): the
    table is sorted by the value and shows the text.
    """
    linears = sorted(sources.linears, key=lambda row: _depth(row.name))  # by name, 10 comes before 2
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    known = any(row.predicted for row in linears)
    timed = [phase for phase in _PHASES if phase in sources.phases and known]
    rows = [_row(row, short[kind_of(row.name)], timed) for row in linears]
    totals = sources.plan.totals
    return {
        "rows": rows,
        "phases": [_PHASES[phase] for phase in timed],
        "reasons": any(row["reason"] for row in rows),
        "sums": {"bytes_before": totals.bytes_before / 1e6, "bytes_after": totals.bytes_after / 1e6},
        "share": 2 * sources.masks.ratio,
        "lines": [*reason_lines(linears), *split_lines(linears)],
        "skipped": sources.report.skipped,
    }


def _depth(name: str) -> float:
    depth = depth_of(name)
    return math.inf if depth is None else depth


def _row(row: LinearRow, kind: str, phases: Collection[str]) -> dict[str, Any]:
    weights, words = row.shape[0] * row.shape[1], node_words(row.node, row.name) if row.node else ""
    found = [getattr(row.predicted, phase) for phase in phases] if row.predicted else []
    times = [value for one in found for value in (one.dense, one.hybrid, one.sparse)]
    return {
        "name": row.name,
        "kind": kind,
        "depth": depth_of(row.name),
        "shape": row.shape,
        "weights": weights,
        "share": row.tiles.sparse / row.tiles.all if row.slabs.others else 2 * row.zeroed / weights,
        "lowering": lowering_words(row),
        "times": [(round(value, 2), milliseconds(value)) for value in times],
        "sizes": [(size, f"{size / 1e6:.2f}") for size in (row.bytes_before, row.bytes_after)],
        "reason": reason_words(row.reason) if row.reason else words and f"with {words}",
    }
