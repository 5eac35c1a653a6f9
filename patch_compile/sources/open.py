"""Opens the source at a path, or the source of a finished build."""

from __future__ import annotations

from masklearn.model.architectures import architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import describe_checkpoint
from patch_compile.artifacts.folder import OutFolder
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.sources.base import Source

__all__ = ["check_unchanged", "open_source", "source_of"]


def open_source(recipe: Recipe, *, weights: bool = True) -> Source:
    """Open the source of the setting `model`: a file that ends in .onnx, or else a Hugging Face folder.

    weights: False to open a folder by its config.json alone if it has no weights.
    A `GraphRecipe` names the graph that goes with the folder.

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
        exported = ExportedEncoder if architecture_of(checkpoint).encoder else ExportedDecoder
        return exported(recipe, checkpoint)
    checkpoint = Checkpoint.open(recipe.model) if weights else describe_checkpoint(recipe.model)
    kind = EncoderSource if architecture_of(checkpoint).encoder else DecoderSource
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
