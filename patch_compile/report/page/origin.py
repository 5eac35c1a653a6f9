"""Origin of the build: enough to repeat it, and to recognise its files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from patch_compile.artifacts.layout import CARD, PAGE, RECIPE
from patch_compile.report.learned import learned_lines
from patch_compile.report.page.page_data import Row, Sources

__all__ = ["origin"]


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
