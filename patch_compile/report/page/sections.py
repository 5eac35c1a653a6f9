"""Sections that only the page has: every linear, and how the build was made."""

from __future__ import annotations

import math
from collections.abc import Iterator

from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from patch_compile.artifacts.layout import CARD, PAGE, RECIPE
from patch_compile.artifacts.plan import LinearRow
from patch_compile.report.learned import learned_lines
from patch_compile.report.linears import skipped_lines, split_lines
from patch_compile.report.number_format import milliseconds, seconds, sha, shape_of
from patch_compile.report.page.page_data import Row, Sources
from patch_compile.report.prediction import lowering_words, node_words, reason_lines, reason_words
from patch_compile.report.section import Column, Fact, Section, Table

__all__ = ["origin", "plan"]

_PHASES = {"prefill": "prefill, µs", "decode": "decode step, µs"}
_TIMES = {"dense": "dense", "hybrid": "hybrid", "2:4": "sparse"}


def plan(sources: Sources) -> Section:
    """Returns every linear, and the reasons and splits by kind."""
    linears = sorted(sources.linears, key=lambda row: _depth(row.name))  # by name, 10 comes before 2
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    known = any(row.predicted for row in linears)
    phases = [phase for phase in _PHASES if phase in sources.phases and known]
    rows = [[row.name, short[kind_of(row.name)], *_cells(row, phases)] for row in linears]
    totals = sources.plan.totals
    headings: list[Column | str] = [
        Column("linear", words=True), Column("kind", words=True), "depth", "shape", "p", Column("lowering", words=True),
        *(Column(name, _PHASES[phase]) for phase in phases for name in _TIMES), Column("before", "MB"),
        Column("after", "MB"), Column("reason, or what is fused", words=True),
    ]  # fmt: skip
    sizes = [f"{size / 1e6:.2f}" for size in (totals.bytes_before, totals.bytes_after)]
    empty = [""] * (len(phases) * len(_TIMES))
    sums = ["all", "", "", "", f"{2 * sources.masks.ratio:.2f}", "", *empty, *sizes, ""]
    timed = "; times are predicted for the linear on its own, in µs" if phases else ""
    caption = f"Every covered linear{timed}. p: share of its weights in pruned tiles"
    lines = [*reason_lines(linears), *split_lines(linears), *skipped_lines(sources.report.skipped)]
    return Section("Plan", id="plan", tables=[Table(headings, rows, caption, sums)], lines=lines)


def _depth(name: str) -> float:
    depth = depth_of(name)
    return math.inf if depth is None else depth


def _cells(row: LinearRow, phases: list[str]) -> Iterator[str]:
    weights, fused = row.shape[0] * row.shape[1], node_words(row.node, row.name) if row.node else ""
    depth = depth_of(row.name)
    share = row.tiles.sparse / row.tiles.all if row.slabs.others else 2 * row.zeroed / weights
    yield from ("" if depth is None else str(depth), shape_of(row.shape), f"{share:.2f}", lowering_words(row))
    for phase in phases:
        times = getattr(row.predicted, phase, None)
        yield from (milliseconds(getattr(times, name)) if times else "" for name in _TIMES.values())
    yield from (f"{size / 1e6:.2f}" for size in (row.bytes_before, row.bytes_after))
    yield reason_words(row.reason) if row.reason else fused and f"with {fused}"


def origin(sources: Sources) -> Section:
    """Returns model, texts, settings, versions, notes, times and files of the build.

    The page lists neither itself nor the model card among the files: both are written last.
    """
    report, manifest = sources.report, sources.manifest
    files = [[name, digest] for name, digest in manifest.files.items() if name not in (PAGE, CARD)]
    made = f"patch-compile build --recipe {sources.out / RECIPE} -o OUT"
    told = [
        ("model", report.model.path),
        ("sha256", report.model.sha256),
        ("seed", str(manifest.seed)),
        *_texts(sources),
        *learned_lines(report.learned),
        ("made again by", made),
    ]
    words = [Column(title, words=True) for title in ("file", "sha256")]
    times = Table([Column("step", words=True), Column("stage", words=True), "time"], list(_seconds(sources)))
    folded = [
        Section("recipe.yaml", text=sources.recipe_text),
        Section("Versions", facts=list(manifest.versions.items())),
        Section("Notes", facts=list(_notes(sources))),
        Section("Time by stage", tables=[times]),
        Section("Files and their sha256", tables=[Table(words, files)]),
    ]
    return Section("How it was made", id="origin", facts=told, folded=[one for one in folded if one.holds])


def _texts(sources: Sources) -> Iterator[Fact]:
    """Yield the texts that were read, each with its purpose."""
    text = sources.manifest.text
    for used, record in (("calibration", text.calib), ("evaluation", text.eval)):
        if record:
            yield f"{used} text", _about_text(record.model_dump())
    if sources.verify and (found := sources.verify.text):
        yield "verification text", _about_text(found.model_dump(exclude_none=True))


def _about_text(record: Row) -> str:
    name = record.get("name") or record.get("source") or "text"
    windows = record.get("windows")
    about = [
        f"{windows} window{'s' * (windows != 1)} of {record['length']} tokens" if windows else "",
        f"{record['tokens']:,} tokens in all" if record.get("tokens") else "",
        f"sha256 {sha(record['sha256'])}" if record.get("sha256") else "",
    ]
    return ", ".join(filter(None, [name, *about]))


def _notes(sources: Sources) -> Iterator[Fact]:
    verify = sources.verify.notes if sources.verify else ()
    bench = sources.bench.notes if sources.bench else ()
    for step, notes in (("build", sources.report.notes), ("verify", verify), ("bench", bench)):
        yield from ((step, note) for note in notes)


def _seconds(sources: Sources) -> Iterator[list[str]]:
    verify = sources.verify.seconds if sources.verify else {}
    for step, taken in (("build", sources.report.seconds), ("verify", verify)):
        yield from ([step, stage, seconds(value)] for stage, value in taken.items())
