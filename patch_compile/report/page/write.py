"""Writes report.html from the files in OUT, and renews it when OUT has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from masklearn.base.durable import whole_file
from masklearn.base.printable import printable
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import CARD, PAGE
from patch_compile.artifacts.workspace import key_of
from patch_compile.report.bench import bench_notes, times_table
from patch_compile.report.build import predicted
from patch_compile.report.page.card import model_card
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.rendering import asset, environment
from patch_compile.report.page.sections import origin, plan, said
from patch_compile.report.page.tile_maps import tile_maps
from patch_compile.report.page.verdict import verdict
from patch_compile.report.quality import baselines, where
from patch_compile.report.section import Section
from patch_compile.report.verify import built, compiled, pruned

_STAGE = "page"
_STYLES = ("theme.css", "page.css")


def write_page(out: Path) -> Path:
    """Write OUT/report.html and return its path. The file is renamed into place when it is complete.

    Its sources are report.json, manifest.json, recipe.yaml and masks.safetensors, and verify/verify.json and
    bench/bench.json if they exist. Equal files give equal pages. Raises PatchCompileError if OUT is not a build or its masks
    are damaged.
    """
    page = out / PAGE
    _write(page, rendered(Sources.read(out)))
    return page


def renew_page(out: Path, *, place: Path | None = None) -> None:
    """Write OUT/report.html and the model card anew, and record both in the manifest. Their sources: see `write_page`.

    place: the folder that both name, if `out` will be renamed to it.
    """
    folder = OutFolder.open(out, check=False)
    folder.forget(_STAGE, PAGE, CARD)
    files = {name: digest for name, digest in folder.manifest.files.items() if name not in (PAGE, CARD)}
    sources = Sources.read(out, place=place)
    _write(out / PAGE, rendered(sources))
    _write(out / CARD, model_card(sources, out))
    folder.record(_STAGE, key_of(files), [PAGE, CARD])


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def rendered(sources: Sources) -> str:
    """Returns the page. It has no character that a terminal would obey: it may show generated text."""
    from markupsafe import Markup

    style, script = Markup("\n".join(map(asset, _STYLES))), Markup(asset("page.js"))
    page = environment().get_template("page.html").render(style=style, script=script, **_parts(sources))
    return printable(page)


def _questions(sources: Sources) -> list[Section]:
    verify, report = sources.verify, sources.report
    return [
        compiled((verify.compiled if verify else None) or report.agreement, report.kind),
        pruned((verify.pruned if verify else None) or report, dense_given=report.dense_given),
        built(verify.built if verify else None, report.engine),
    ]


def _speed(sources: Sources) -> Section:
    found, bench = predicted(sources.report), sources.bench
    if bench is None:
        return found
    return replace(
        found,
        tables=[*found.tables, times_table(bench)],
        lines=[*found.lines, *bench_notes(bench)],
    )


def _parts(sources: Sources) -> dict[str, Any]:
    """Returns the content of the sections, None or empty for sections without content."""
    return {
        "name": sources.name,
        "verdict": verdict(sources),
        "questions": _questions(sources),
        "baselines": baselines(sources.baselines),
        "speed": _speed(sources),
        "maps": tile_maps(sources.masks),
        "where": where(sources.verify.where if sources.verify else None),
        "plan": plan(sources),
        "said": said(sources),
        "origin": origin(sources),
    }
