"""Opens the source at a path, or the source of a finished build, and names all files that a build depends on: the files that
it reads or copies, and that its keys have to cover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from masklearn import open_text
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import describe_checkpoint
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.sources.base import ProvenSource, Source, Weights


def open_source(recipe: Recipe, *, weights: bool = True) -> ProvenSource:
    """Open the source of the setting `model`: a file that ends in .onnx, or else a Hugging Face folder.

    weights: False to open a folder by only its config.json if it has no weights. Raises PatchCompileError for a folder
    without a checkpoint, or with a checkpoint of an unknown architecture.
    """
    if recipe.model.suffix == ".onnx":
        from patch_compile.sources.onnx_model.source import OnnxSource

        return OnnxSource(recipe)
    from patch_compile.sources.checkpoint.decoder import DecoderSource
    from patch_compile.sources.checkpoint.encoder import EncoderSource

    checkpoint = Checkpoint.open(recipe.model) if weights else describe_checkpoint(recipe.model)
    kind = EncoderSource if checkpoint.architecture.encoder else DecoderSource
    return kind(recipe, checkpoint)


def open_graph(recipe: GraphRecipe) -> Source:
    """Open a Hugging Face folder with the graph of another program. Raises PatchCompileError as `open_source` does."""
    from patch_compile.sources.exported_graph.source import ExportedSource

    return ExportedSource(recipe, Checkpoint.open(recipe.model))


def source_of(out: OutFolder) -> ProvenSource:
    """Open the model that a build was made from, in its present state, with the settings of the build."""
    return open_source(Recipe.of_build(out.path))


_Needed = TypeVar("_Needed", bound=Weights)
_WORDS = {Kind.ENCODER: "an encoder", Kind.ONNX: "an ONNX file"}
_NO_PHASES = "An ONNX file does not tell prompts from decode steps, and speed is predicted for these."
_NO_NEXT_TOKENS = {
    Kind.ENCODER: "{model} is an encoder: it reads text and predicts none.",
    Kind.ONNX: "{model} is an ONNX file, which comes without a tokenizer.",
}
# By command or flag, why a kind of model does not have what it needs.
_WHY_NOT: Mapping[str, Mapping[Kind, str]] = {
    "learn": {Kind.ONNX: "An ONNX file is pruned by the inputs of its linears, as part of its build."},
    "compile": {Kind.ONNX: "An ONNX file is pruned and compiled by its build."},
    "plan": {Kind.ONNX: _NO_PHASES},
    "--calibrate": {Kind.ONNX: _NO_PHASES},
    "--baselines": _NO_NEXT_TOKENS,
    "--tasks": _NO_NEXT_TOKENS,
}


def needed(source: Weights, needs: type[_Needed], asked: str) -> _Needed:
    """Returns the source as the class that a command or flag needs. This is the only place that refuses a kind of model.

    needs: may be abstract, which mypy refuses (`type-abstract`); asked: the command or flag. Raises PatchCompileError if
    the source is not of this class.
    """
    if isinstance(source, needs):
        return source
    why = _WHY_NOT[asked][source.kind].format(model=source.model.name)
    if asked.startswith("--"):
        what = f"{asked} does not go with {_WORDS[source.kind]}"
        raise PatchCompileError(what, why, f"Leave {asked} out.")
    raise PatchCompileError(
        f"{asked} takes a model directory, not {source.model}",
        why,
        "`patch-compile build` takes ONNX files, and --backend onnx stops it there.",
    )


def check_unchanged(source: Weights, out: OutFolder, otherwise: str = "") -> None:
    """Raise PatchCompileError if a source is not the model that OUT was built from.

    otherwise: text for the end of the error, about a way that does not need the model.
    """
    if source.fingerprint != out.manifest.model.sha256:
        raise PatchCompileError(
            f"{source.model} is not the model that {out.path} was built from",
            "Its weights or its configuration have another sha256.",
            f"Put the model back as it was, or build again{otherwise}.",
        )


def inputs_of(source: Weights, recipe: Recipe) -> Iterator[Path]:
    """Yield all files that a build reads or copies, in their present state. A file that names other files comes before them.

    recipe: the requested settings; the source may have to read the model to complete them. A timing cache is left out: the
    engine's builder writes to it.
    """
    named = (recipe.model, getattr(recipe, "graph", None), recipe.mask, recipe.calib, recipe.prior)
    yield from (Path(name) for name in named if name is not None and Path(name).is_file())
    for name in source.format.texts:
        if (text := getattr(recipe, name)) is not None:
            yield from open_text(text).files
    yield from files_of_model(source)
    if (weights := _given_weights(source)) is not None:
        yield from source.format.files_of(weights)
        yield from source.format.files_beside(weights).values()


def files_of_model(source: Weights) -> Iterator[Path]:
    """Yield the files of a source's model, in their present state."""
    yield from source.files
    yield from source.format.files_beside(source.model).values()


def beside_key(source: Weights, *, given: bool = False) -> str:
    """Returns a hash of the names and bytes of the files next to the model.

    given: True to cover the files next to the new weights of given masks, too.
    """
    folders = [source.model, *filter(None, [_given_weights(source) if given else None])]
    return key_of(
        *(
            {name: sha256_of(file) for name, file in source.format.files_beside(one).items()}
            for one in folders
        )
    )


def _given_weights(source: Weights) -> Path | None:
    """Returns the model whose new weights belong to given masks; None if the masks prune the source's own weights."""
    if source.recipe.mask is None or source.given.weights == source.model:
        return None
    return source.given.weights
