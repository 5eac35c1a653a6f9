"""Learns masks for an ONNX file with the arguments that a build gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from masklearn.learning import find_masks
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid
from masklearn.recipe import LearnRecipe
from masklearn.task import chooser_of_recipe
from masklearn.traits import Requires
from patch_compile.onnx_io.feeds import Feeds, input_dtypes, random_feeds
from patch_compile.onnx_io.graph_inputs import read_inputs
from patch_compile.onnx_io.read import read_onnx
from patch_compile.packing.fusion import FUSIONS
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.passes.write import write_onnx_hybrid
from patch_compile.planning.lowering import LinearPlan, plan_linears
from patch_compile.sources.onnx_model.feed import OnnxFeed, gather_moments, write_probe
from patch_compile.sources.onnx_model.pruning import write_pruned


@dataclass(frozen=True)
class Learned:
    """Masks of a file, grids of its quantised linears, and `pruned`, the model written with them."""

    masks: dict[str, LinearMask]
    feeds: Feeds
    pruned: Path
    dtype: ir.DataType
    grids: Mapping[str, Grid]


def quiet(*_: object) -> None:
    """No progress is wanted."""


def learn(path: Path, folder: Path, *, dtype: str = "FLOAT16", **settings: Any) -> Learned:
    """Learn masks of `path` on random inputs and write its pruned model."""
    model = read_onnx(path)
    linears = linears_of_file(path, model).linears
    feeds = random_feeds(path, read_inputs(path), input_dtypes(path, model), {}, {}, seed=1)
    recipe = LearnRecipe(**{"ratio": 0.4, "tile": (64, 64), "method": "oneshot"} | settings)
    moments = None
    if Requires.INPUTS in recipe.traits.needs:
        write_probe(model, linears, folder / "probe.onnx")
        moments = gather_moments(folder / "probe.onnx", linears, feeds, folder / "moments", quiet)
    kind = ir.DataType[dtype]
    feed, store = OnnxFeed(linears, moments, recipe, kind, quiet, quiet), WeightStore(folder / "store")
    found = find_masks(feed, store, chooser_of_recipe(recipe, feed.shapes, quiet))
    write_pruned(model, linears, found.masks, store, kind, folder / "pruned.onnx", quiet)
    return Learned(found.masks, feeds, folder / "pruned.onnx", kind, found.grids)


def write_hybrid(learned: Learned, path: Path, **options: Any) -> dict[str, LinearPlan]:
    """Write the hybrid of a pruned model."""
    model = read_onnx(learned.pruned)
    linears = linears_of_file(learned.pruned, model).linears
    about: dict[str, Any] = {
        "method": "oneshot",
        "seed": 0,
        "base_model": "m",
        "base_sha256": "",
        "ratio_asked": 0.4,
    }
    masks = MaskSet(learned.masks, **about, grids=learned.grids)
    types = {name: grid.type for name, grid in learned.grids.items()}
    plan = plan_linears(masks, options.pop("lowering", "plugin"), weights=types)
    return write_onnx_hybrid(
        model, linears, masks, plan, learned.dtype, path, quiet, **{"fuse": tuple(FUSIONS)} | options
    )
