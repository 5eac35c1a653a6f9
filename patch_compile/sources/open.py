"""Opens the source at a path, or the source of a finished build, and names all files that a build depends on: the files that
it reads or copies, and that its keys have to cover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from masklearn import open_text
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import describe_checkpoint
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.sources.base import Source


def open_source(recipe: Recipe, *, weights: bool = True) -> Source:
    """Open the source of the setting `model`: a file that ends in .onnx, or else a Hugging Face folder.

    weights: False to open a folder by only its config.json if it has no weights. A `GraphRecipe` names the graph that goes
    with the folder.

    Raises PatchCompileError for a folder without a checkpoint, or with a checkpoint of an unknown architecture.
    """
    if recipe.model.suffix == ".onnx":
        from patch_compile.sources.onnx_model.source import OnnxSource

        return OnnxSource(recipe)
    from patch_compile.sources.checkpoint.decoder import DecoderSource
    from patch_compile.sources.checkpoint.encoder import EncoderSource

    if isinstance(recipe, GraphRecipe):
        from patch_compile.sources.exported_graph.source import ExportedDecoder, ExportedEncoder

        checkpoint = Checkpoint.open(recipe.model)
        exported = ExportedEncoder if checkpoint.architecture.encoder else ExportedDecoder
        return exported(recipe, checkpoint)
    checkpoint = Checkpoint.open(recipe.model) if weights else describe_checkpoint(recipe.model)
    kind = EncoderSource if checkpoint.architecture.encoder else DecoderSource
    return kind(recipe, checkpoint)


def source_of(out: OutFolder) -> Source:
    """Open the model that a build was made from, in its present state, with the settings of the build."""
    return open_source(Recipe.of_build(out.path))


def check_unchanged(source: Source, out: OutFolder, otherwise: str = "") -> None:
    """Raise PatchCompileError if a source is not the model that OUT was built from.

    otherwise: text for the end of the error, about a way that does not need the model.
    """
    if source.fingerprint != out.manifest.model.sha256:
        raise PatchCompileError(
            f"{source.model} is not the model that {out.path} was built from",
            "Its weights or its configuration have another sha256.",
            f"Put the model back as it was, or build again{otherwise}.",
        )


def inputs_of(source: Source, recipe: Recipe) -> Iterator[Path]:
    """Yield all files that a build reads or copies, in their present state. A file that names other files comes before them.

    recipe: the requested settings; the source may have to read the model to complete them. A timing cache is left out: the
    engine's builder writes to it.
    """
    named = (recipe.model, getattr(recipe, "graph", None), recipe.mask, recipe.calib, recipe.prior)
    yield from (Path(name) for name in named if name is not None and Path(name).is_file())
    for name in source.texts:
        if (text := getattr(recipe, name)) is not None:
            yield from open_text(text).files
    yield from files_of_model(source)
    if (weights := _given_weights(source)) is not None:
        yield from source.files_of(weights)
        yield from source.files_beside(weights).values()


def files_of_model(source: Source) -> Iterator[Path]:
    """Yield the files of a source's model, in their present state."""
    yield from source.files
    yield from source.files_beside(source.model).values()


def beside_key(source: Source, *, given: bool = False) -> str:
    """Returns a hash of the names and bytes of the files next to the model.

    given: True to cover the files next to the new weights of given masks, too.
    """
    folders = [source.model, *filter(None, [_given_weights(source) if given else None])]
    return key_of(
        *({name: sha256_of(file) for name, file in source.files_beside(one).items()} for one in folders)
    )


def _given_weights(source: Source) -> Path | None:
    """Returns the model whose new weights belong to given masks; None if the masks prune the source's own weights."""
    if source.recipe.mask is None or source.given.weights == source.model:
        return None
    return source.given.weights
