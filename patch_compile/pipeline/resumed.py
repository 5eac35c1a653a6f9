"""The key of the masks, by which an interrupted run is resumed, and the check that a resumed run asks for these masks."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn import LearnRecipe
from masklearn.choice.menu import named_types
from masklearn.quant.table import W8A8
from patch_compile.artifacts.layout import RECIPE, SCRATCH
from patch_compile.artifacts.place import is_half_published, partial_of, place_of
from patch_compile.artifacts.recipe_file import read_recipe
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.state import WorkspaceState
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError
from patch_compile.options import flag_of
from patch_compile.sources.base import Stage
from patch_compile.sources.open import beside_key

if TYPE_CHECKING:
    from masklearn.choice.solve import Chooser
    from patch_compile.planning.cost import CostModel
    from patch_compile.recipe import Recipe
    from patch_compile.sources.base import Weights

_LEARNED = frozenset(LearnRecipe.model_fields) - {"threads"}
# The masks also depend on these, some of them only where predicted speed chooses tiles.
_MASKS = _LEARNED | {
    "model", "mask", "pruned", "speedup", "lowering", "fuse", "dtype", "target", "batch_size", "prompt_tokens",
    "generated_tokens",
}  # fmt: skip


def masks_key(source: Weights, r: Recipe, costs: CostModel | None, chooser: Chooser | None) -> str:
    """Returns the key of the stage that makes the masks. r: the settings, with nothing left open."""
    masks = [sha256_of(r.mask), source.given.masks.record.weights, r.weights] if r.mask else None
    learned = r.model_dump(mode="json", include={*_LEARNED} - {"calib"})
    files = [source.calibration_hash, sha256_of(Path(r.prior)) if Path(r.prior).is_file() else None]
    # Predicted costs choose the tiles for a speed, and the linears that gain.
    fuse = r.fuse if costs else None  # it changes only costs
    predicted = [str(r.goal), r.lowering, fuse, repr(costs)] if chooser and chooser.price.predicts else None
    pairs = chooser.pairs if chooser else ()
    # Linears of type w8a8 that are lowered as split get static scales.
    int8 = r.mask is not None or W8A8 in named_types(r.weights)
    static = r.lowering if int8 and "split" in r.lowering else None
    version = importlib.metadata.version("patch-compile")
    model = [source.fingerprint, beside_key(source, given=True)]
    rounded = r.dtype if source.format.rounds_pruned else None
    return key_of(version, model, masks or [learned, *files], rounded, predicted, pairs, static)


def learning_folder(scratch: Path, key: str) -> Path:
    """Returns the folder in which the processes that learn these masks keep their checkpoints."""
    return scratch / key[:16]


def check_resumed(
    out: Path, source: Weights, recipe: Recipe, costs: CostModel | None, chooser: Chooser | None
) -> None:
    """Raise PatchCompileError if settings differ from those of the interrupted run, so that its masks would be thrown away.

    Settings that only later stages depend on may differ, and so may files: the stages that read them run again.
    """
    place = place_of(out)
    homes = (partial_of(place), *([place] if is_half_published(place) else []))
    root = next((home for home in homes if (home / RECIPE).is_file()), None)
    if root is None:
        return
    before, now = read_recipe(root / RECIPE), recipe.spelled(source.format.texts)
    differing = [name for name in now | before if name in _MASKS and before.get(name) != now.get(name)]
    if not differing:
        return
    key, finished = (
        masks_key(source, recipe, costs, chooser),
        WorkspaceState.read(root).records.get(Stage.MASKS.value),
    )
    if (finished and finished.key == key) or learning_folder(root / SCRATCH, key).exists():
        return
    begun, resumed = (
        " and ".join(_spelled(name, settings.get(name)) for name in differing) for settings in (before, now)
    )
    raise PatchCompileError(
        f"{out} was begun {begun}, and is resumed {resumed}",
        "Its masks depend on that: they would be thrown away, and learned anew.",
        f"Resume it {begun}, or use --force instead of --resume to begin anew.",
    )


def _spelled(name: str, value: Any) -> str:
    flag = flag_of(name)
    if value in (None, False, []):
        return f"without {flag}"
    words = ",".join(map(str, value)) if isinstance(value, list) else "" if value is True else str(value)
    return f"with {flag} {words}".rstrip()
