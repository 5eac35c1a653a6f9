"""Writes report.html, a page that needs no other file, and the model card, OUT/README.md, from the files in OUT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from masklearn.base.durable import whole_file
from masklearn.base.printable import one_line, printable
from masklearn.base.safe_read import read_json
from masklearn.masks.kinds.table import DENSE
from masklearn.model.folder import CONFIG, CardFacts, hub_name, read_card
from patch_compile.artifacts import layout
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import CARD, PAGE
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.workspace import key_of
from patch_compile.report.bench import bench_notes, times_table
from patch_compile.report.build import predicted
from patch_compile.report.linears import compiled_types, types_words
from patch_compile.report.number_format import kind_class, percent
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.sections import origin, plan, said
from patch_compile.report.page.tile_maps import tile_maps
from patch_compile.report.page.verdict import key_figures, verdict
from patch_compile.report.quality import baselines, where
from patch_compile.report.section import Section
from patch_compile.report.verify import built, compiled, pruned

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "patch_compile.report.page"
_STAGE = "page"
_STYLES = ("theme.css", "page.css")
_FILES = {
    f"{layout.MODEL}/": "the pruned model, zeros stored: it runs wherever the base model does",
    layout.MASKS: "which weights are zeroed, by tile",
    layout.ONNX: "the packed model: linears are `PatchLinear` functions of standard operators",
    layout.ENGINE: "the TensorRT engine, a program: run only engines of makers whom you trust",
    layout.RECIPE: "the settings: `patch-compile build --recipe` repeats the build",
    f"{layout.COMPRESSED_FOLDER}/": "the pruned model with its integers packed, as compressed-tensors reads it",
}


def renew_page(out: Path, *, place: Path | None = None) -> None:
    """Write OUT/report.html and the model card anew, and record both in the manifest.

    Their sources are report.json, manifest.json, recipe.yaml and masks.safetensors, and verify/verify.json and
    bench/bench.json if they exist. Equal files give equal pages. place: the folder that both name, if `out` will be renamed
    to it. Raises PatchCompileError if OUT is not a build or its masks are damaged.
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
    page = _environment().get_template("page.html").render(style=style, script=script, **_parts(sources))
    return printable(page)


def _speed(sources: Sources) -> Section:
    speed, bench = predicted(sources.report), sources.bench
    if bench is None:
        return speed
    tables, lines = [*speed.tables, times_table(bench)], [*speed.lines, *bench_notes(bench)]
    return replace(speed, tables=tables, lines=lines)


def _parts(sources: Sources) -> dict[str, Any]:
    """Returns the content of the sections, None or empty for sections without content."""
    verify, report = sources.verify, sources.report
    return {
        "name": sources.name,
        "verdict": verdict(sources),
        "questions": [
            compiled((verify.compiled if verify else None) or report.agreement, report.kind),
            pruned(sources.pruned, dense_given=report.dense_given),
            built(verify.built if verify else None, report.engine),
        ],
        "baselines": baselines(sources.baselines),
        "speed": _speed(sources),
        "maps": tile_maps(sources.masks),
        "where": where(verify.where if verify else None),
        "plan": plan(sources),
        "said": said(sources),
        "origin": origin(sources),
    }


def model_card(sources: Sources, out: Path) -> str:
    """Returns the card as Markdown, with the metadata of hubs above it. out: the folder that holds the files."""
    model = out / layout.MODEL
    config = read_json(model / CONFIG, finite=False) if (model / CONFIG).is_file() else {}
    facts = read_card(model)
    base = hub_name(Path(sources.report.model.path), config)
    head = yaml.safe_dump(_metadata(sources, facts, base), sort_keys=False, allow_unicode=True)
    templates = _environment()
    templates.filters.update(code=_code, cell=_cell)
    text = templates.get_template("card.md").render(
        sources=sources,
        report=sources.report,
        facts=facts,
        layout=layout,
        name=_code(base or sources.name),
        types=types_words(compiled_types(sources.report.linears)),
        figures=key_figures(sources),
        files=list(_files(sources)),
    )
    return f"---\n{head}---\n\n{text}"


def _metadata(sources: Sources, facts: CardFacts, base: str) -> dict[str, Any]:
    kinds = [kind.name for kind in sources.masks.by_kind() if kind != DENSE]
    known = {
        "base_model": base,
        "license": facts.licence,
        "license_name": facts.licence_name,
        "license_link": facts.licence_link,
        "language": list(facts.languages),
        "library_name": "onnx" if sources.report.kind is Kind.ONNX else "transformers",
        "pipeline_tag": "text-generation" if sources.report.kind is Kind.DECODER else "",
        "tags": ["patch-compile", "sparse", *kinds, "onnx", "tensorrt"],
    }
    return {name: value for name, value in known.items() if value}


def _files(sources: Sources) -> Iterator[tuple[str, str]]:
    for name, holds in _FILES.items():
        if any(file == name or file.startswith(name) for file in sources.manifest.files):
            yield name, holds


def _code(text: str) -> str:
    """Returns the text, escaped so that Markdown shows it unchanged."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=lambda name: name is None or not name.endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(percent=percent, kind_class=kind_class)
    return templates


def asset(name: str) -> str:
    return (files(_PACKAGE) / "templates" / name).read_text("utf-8")
