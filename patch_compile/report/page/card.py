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
from patch_compile.artifacts.layout import (
    COMPRESSED_FOLDER,
    ENGINE,
    MASKS,
    MODEL,
    ONNX,
    ONNX_FOLDER,
    PAGE,
    PRUNED_ONNX,
    RECIPE,
)
from patch_compile.artifacts.report import Kind
from patch_compile.report.linears import compiled_types, types_words
from patch_compile.report.number_format import percent
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.verdict import key_figures

_PAPER = "[PATCH, arXiv 2509.23410](https://arxiv.org/abs/2509.23410)"


def model_card(sources: Sources, out: Path) -> str:
    """Returns the card as Markdown, with the metadata of hubs above it. out: the folder that holds the files."""
    model = out / MODEL
    config = read_json(model / CONFIG, finite=False) if (model / CONFIG).is_file() else {}
    facts = read_card(model)
    base = hub_name(Path(sources.report.model.path), config)
    head = yaml.safe_dump(_metadata(sources, facts, base), sort_keys=False, allow_unicode=True)
    parts = (_about(sources, facts, base), _figures(sources), _running(sources), _files(sources))
    return f"---\n{head}---\n\n" + "\n".join(line for part in parts for line in part)


def _metadata(sources: Sources, facts: CardFacts, base: str) -> dict[str, Any]:
    licence = {
        "license": facts.licence,
        "license_name": facts.licence_name,
        "license_link": facts.licence_link,
    }
    decoder = sources.report.kind is Kind.DECODER
    kinds = [kind.name for kind in sources.masks.by_kind() if kind != DENSE]
    return {
        **({"base_model": base} if base else {}),
        **{name: value for name, value in licence.items() if value},
        **({"language": list(facts.languages)} if facts.languages else {}),
        "library_name": "onnx" if sources.report.kind is Kind.ONNX else "transformers",
        **({"pipeline_tag": "text-generation"} if decoder else {}),
        "tags": ["patch-compile", "sparse", *kinds, "onnx", "tensorrt"],
    }


def _about(sources: Sources, facts: CardFacts, base: str) -> Iterator[str]:
    name = _code(base or sources.name)
    yield f"# {name}, {percent(sources.report.ratio, 1)} of the covered weights zeroed"
    yield ""
    yield (
        f"The weights of {len(sources.report.linears)} linear layers of {name} are mosaics of dense tiles and tiles in "
        f"which weights are zeroed by a pattern ({_PAPER}): {percent(sources.pruned_share)} of the weights lie in "
        f"{sources.pruned_kinds} tiles. The masks were learned by the method {_code(sources.report.method)}."
    )
    if types := types_words(compiled_types(sources.report.linears)):
        yield f"Types of the weights: {types}."
    yield ""
    yield f"Licence of the base model, from which this model is derived: {_licence(facts)}."
    yield ""


def _licence(facts: CardFacts) -> str:
    if not facts.licence:
        return "unknown (no model card with a licence lay next to its weights)"
    named = _code(facts.licence_name or facts.licence)
    return f"{named} ({facts.licence_link})" if facts.licence_link else named


def _figures(sources: Sources) -> Iterator[str]:
    yield "## Figures"
    yield ""
    yield "| | | |"
    yield "| --- | --- | --- |"
    for figure in key_figures(sources):
        yield f"| {_cell(figure.label)} | {_cell(figure.value)} | {_cell('; '.join(figure.about))} |"
    yield ""
    yield f"All of them, with how they were measured or predicted, are in {_code(PAGE)}."
    yield ""


def _running(sources: Sources) -> Iterator[str]:
    yield "## Running it"
    yield ""
    if sources.report.kind is Kind.DECODER:
        yield "In this folder:"
        yield ""
        yield '    patch-compile run . "Once upon a time"        # TensorRT where it can, else ONNX Runtime'
        yield ""
        yield "The same from Python, the pruned checkpoint with transformers, and the ONNX file with onnxruntime-genai:"
        yield ""
        yield "```python"
        yield from _python()
        yield "```"
    else:
        yield f"{_code(ONNX)} runs unchanged with ONNX Runtime, and with TensorRT through the plugin of patch-compile."
        if sources.report.kind is Kind.ENCODER:
            loads = f'AutoModel.from_pretrained("{MODEL}", trust_remote_code=False)'
            yield f"`transformers.{loads}` loads the pruned checkpoint."
    yield ""


def _python() -> Iterator[str]:
    yield "from patch_compile import open_generator"
    yield 'print(open_generator(".").generate(["Once upon a time"], new_tokens=20)[0].text)'
    yield ""
    yield "from transformers import AutoModelForCausalLM"
    yield f'model = AutoModelForCausalLM.from_pretrained("{MODEL}", trust_remote_code=False)'
    yield ""
    yield "import onnxruntime_genai"
    yield f'model = onnxruntime_genai.Model("{ONNX_FOLDER}")'


def _files(sources: Sources) -> Iterator[str]:
    pruned = PRUNED_ONNX if sources.report.kind is Kind.ONNX else f"{MODEL}/"
    about = {
        pruned: "the pruned model, zeros stored: it runs wherever the base model does",
        MASKS: "which weights are zeroed, by tile",
        ONNX: "the packed model: linears are `PatchLinear` functions of standard operators",
        **(
            {ENGINE: "the TensorRT engine, a program: run only engines of makers whom you trust"}
            if sources.report.engine
            else {}
        ),
        RECIPE: "the settings: `patch-compile build --recipe` repeats the build",
        f"{COMPRESSED_FOLDER}/": "the pruned model with its integers packed, as compressed-tensors reads it",
    }
    yield "## Files"
    yield ""
    yield "| file | holds |"
    yield "| --- | --- |"
    listed = sources.manifest.files
    for name, holds in about.items():
        if any(file == name or file.startswith(name) for file in listed):
            yield f"| {_code(name)} | {holds} |"
    yield ""


def _code(text: str) -> str:
    """Returns the text, escaped so that Markdown shows it unchanged."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")
