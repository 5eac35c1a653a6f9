"""Writes the model card of a build, OUT/README.md: the metadata that hubs show, and all that a reader needs to run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from masklearn.base.printable import one_line
from masklearn.base.safe_read import read_json
from masklearn.masks.kinds.table import DENSE
from masklearn.model.folder import CONFIG, CardFacts, hub_name, read_card
from patch_compile.artifacts import layout
from patch_compile.artifacts.report import Kind
from patch_compile.report.linears import compiled_types, types_words
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.rendering import environment
from patch_compile.report.page.verdict import key_figures

_FILES = {
    f"{layout.MODEL}/": "the pruned model, zeros stored: it runs wherever the base model does",
    layout.MASKS: "which weights are zeroed, by tile",
    layout.ONNX: "the packed model: linears are `PatchLinear` functions of standard operators",
    layout.ENGINE: "the TensorRT engine, a program: run only engines of makers whom you trust",
    layout.RECIPE: "the settings: `patch-compile build --recipe` repeats the build",
    f"{layout.COMPRESSED_FOLDER}/": "the pruned model with its integers packed, as compressed-tensors reads it",
}


def model_card(sources: Sources, out: Path) -> str:
    """Returns the card as Markdown, with the metadata of hubs above it. out: the folder that holds the files."""
    model = out / layout.MODEL
    config = read_json(model / CONFIG, finite=False) if (model / CONFIG).is_file() else {}
    facts = read_card(model)
    base = hub_name(Path(sources.report.model.path), config)
    head = yaml.safe_dump(_metadata(sources, facts, base), sort_keys=False, allow_unicode=True)
    templates = environment()
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
