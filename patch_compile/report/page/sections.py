"""Sections that only the page has: every linear, the models' texts, and the origin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from masklearn.base.printable import counted
from masklearn.masks.name_globs import depth_of, kind_of, short_kinds
from patch_compile.artifacts.layout import CARD, PAGE, RECIPE
from patch_compile.artifacts.report import DecoderReport
from patch_compile.report.learned import learned_lines
from patch_compile.report.linears import (
    LOWERING,
    NAME,
    SHAPE,
    SIZES,
    Linears,
    share_columns,
    share_legend,
    skipped_lines,
    split_lines,
    table_of_linears,
    time_columns,
)
from patch_compile.report.number_format import seconds, sha, shape_of
from patch_compile.report.page.page_data import Row, Sources
from patch_compile.report.prediction import lowering_words, node_words, reason_lines, reason_words
from patch_compile.report.quality import tasks as task_scores
from patch_compile.report.section import Column, Columns, Fact, Section, Table, facts


def plan(sources: Sources) -> Section:
    linears = sorted(sources.report.linears, key=lambda row: _depth(row.name))  # by name, 10 comes before 2
    short = short_kinds(dict.fromkeys(kind_of(row.name) for row in linears))
    columns: Columns = {
        **NAME,
        Column("kind", words=True): lambda row: short.get(kind_of(row.name), ""),
        "depth": lambda row: "" if (depth := depth_of(row.name)) is None else str(depth),
        **SHAPE,
        **share_columns(linears),
        **LOWERING,
        **time_columns(sources.phases),
        **SIZES,
        Column("reason, or fused operations", words=True): _reason,
    }
    rows = [Linears(row.name, shape_of(row.shape), lowering_words(row), [row]) for row in linears]
    timed = "; times are predicted for the linear on its own, in µs" * any(row.predicted for row in linears)
    caption = f"Every covered linear{timed}. {share_legend(linears)}"
    lines = [*reason_lines(linears), *split_lines(linears), *skipped_lines(sources.report.skipped)]
    return Section("Plan", id="plan", tables=[table_of_linears(rows, columns, caption)], lines=lines)


def _depth(name: str) -> float:
    depth = depth_of(name)
    return math.inf if depth is None else depth


def _reason(row: Linears) -> str:
    if not row.shape:
        return ""
    (linear,) = row.linears
    if linear.reason:
        return reason_words(linear.reason)
    fused = linear.node and node_words(linear.node, linear.name)
    return f"with {fused}" if fused else ""


def origin(sources: Sources) -> Section:
    """Returns model, texts, settings, versions, notes, times and files of the build.

    The page lists neither itself nor the model card among the files: both are written last.
    """
    report, manifest = sources.report, sources.manifest
    files = [[name, digest] for name, digest in manifest.files.items() if name not in (PAGE, CARD)]
    made = f"patch-compile build --recipe {sources.out / RECIPE} -o OUT"
    told = [
        *facts(report.model, manifest),
        *_texts(sources),
        *learned_lines(report.learned),
        ("made again by", made),
    ]
    words = [Column(title, words=True) for title in ("file", "sha256")]
    times = Table([Column("step", words=True), Column("stage", words=True), "time"], list(_seconds(sources)))
    folded = [
        Section(RECIPE, text=sources.recipe_text),
        Section("Versions", facts=list(manifest.versions.items())),
        Section("Notes", facts=list(_notes(sources))),
        Section("Time by stage", tables=[times]),
        Section("Files and their sha256", tables=[Table(words, files)]),
    ]
    return Section("How it was made", id="origin", facts=told, folded=[one for one in folded if one.holds])


def _texts(sources: Sources) -> Iterator[Fact]:
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
        f"{counted(windows, 'window')} of {record['length']} tokens" if windows else "",
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


def said(sources: Sources) -> Section:
    """Returns scores of tasks, and texts of both models: without the dense model there is no text to compare with."""
    tasks, report = task_scores(sources.verify.tasks if sources.verify else None), sources.report
    if not (report.dense_given and isinstance(report, DecoderReport)):
        return replace(tasks, id="said")
    title = "Tasks and text" if tasks.title else "What the models say"
    return replace(tasks, title=title, id="said", facts=list(facts(report.generated)))
