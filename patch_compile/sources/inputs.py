"""Names all files that a build depends on: what is read or copied, and what its keys have to cover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from masklearn import open_text
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import key_of
from patch_compile.recipe import Recipe
from patch_compile.sources.base import Source

__all__ = ["beside_key", "files_of_model", "inputs_of"]


def inputs_of(source: Source, recipe: Recipe) -> Iterator[Path]:
    """Yield all files that a build reads or copies, as they are now. A file that names others comes before these.

    recipe: the settings as they were asked for; the source may have to read the model to complete them. A timing cache is
    left out: the engine's builder writes to it.
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
    """Yield the files of the model of a source, as they are now."""
    yield from source.files
    yield from source.files_beside(source.model).values()


def beside_key(source: Source, *, given: bool = False) -> str:
    """Returns a hash of the names and bytes of the files beside the model.

    given: True to cover the files beside the new weights that given masks bring, too.
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
