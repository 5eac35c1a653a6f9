"""What the hybrid model is timed against: the dense model and the uniform 2:4 one, compiled as it was."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.coverage import covered_linears_of
from masklearn.masks.maskset import MaskSet
from patch_compile.bench.uniform import UniformMasks
from patch_compile.errors import PatchCompileError
from patch_compile.out.folder import OutFolder
from patch_compile.out.layout import MASKS, ONNX, ONNX_NAME
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import plan_linears
from patch_compile.plan.settle_together import settle_together
from patch_compile.progress import Progress, Update
from patch_compile.recipe import Recipe

__all__ = ["Contender", "check_model", "write_contender"]


class Contender(StrEnum):
    """Models that are timed, by the names that bench.json has for them."""

    DENSE = "dense"
    HYBRID = "hybrid"
    UNIFORM = "uniform-2:4"

    @property
    def folder(self) -> str:
        """A name that every file system takes."""
        return self.value.replace(":", "-")


def check_model(out: OutFolder, recipe: Recipe) -> None:
    """Raise PatchCompileError unless the model that OUT was built from is where it was, as it was."""
    from patch_compile.onnx_io.external import data_files
    from patch_compile.sources.onnx_model.read import read_onnx
    from patch_compile.sources.onnx_model.source import fingerprint_of

    if not recipe.model.exists():
        raise PatchCompileError(
            f"the model that {out.path} was built from is gone",
            f"there is no {recipe.model}, and the dense and the uniform 2:4 model are made of it",
            "put it there again, or time the hybrid model alone: --against none",
        )
    if recipe.is_onnx:
        found = fingerprint_of((recipe.model, *data_files(read_onnx(recipe.model))))
    else:
        found = Checkpoint.open(recipe.model).fingerprint()
    if found != out.manifest["model"]["sha256"]:
        raise PatchCompileError(
            f"{recipe.model} is not the model that {out.path} was built from",
            "its sha256 is another one",
            "put back the model, build again, or time the hybrid model alone: --against none",
        )


def write_contender(
    which: Contender,
    out: OutFolder,
    recipe: Recipe,
    costs: CostModel | None,
    folder: Path,
    progress: Progress,
) -> Path:
    """The ONNX file of a model; the dense and the uniform 2:4 one are written, each to a folder of its own in `folder`.

    costs: what OUT was planned by, for the lowering `auto`. The dense model of an ONNX file is the file itself.
    """
    if which is Contender.HYBRID:
        return out.path / ONNX
    if which is Contender.DENSE and recipe.is_onnx:
        return recipe.model
    path = folder / which.folder / ONNX_NAME
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    with progress.stage(f"{which} ONNX") as update:
        if which is Contender.DENSE:
            _write_dense(recipe, path)
        elif recipe.is_onnx:
            _write_uniform_of_onnx(recipe, _masks_of(out, recipe), path, update)
        else:
            _write_uniform(recipe, _masks_of(out, recipe), costs, path, update)
    return path


def _write_dense(r: Recipe, path: Path) -> None:
    from patch_compile.passes.write import export_graph, write_dense

    graph = export_graph(r.model, dtype=r.dtype, opset=r.opset, logits=r.logits)
    write_dense(graph, Checkpoint.open(r.model), path, r.dtype)


def _write_uniform(r: Recipe, like: MaskSet, costs: CostModel | None, path: Path, update: Update) -> None:
    from masklearn.checkpoint.linears import read_linear
    from patch_compile.passes.write import export_graph, write_hybrid
    from patch_compile.plan.outline import outline_of

    checkpoint = Checkpoint.open(r.model)

    def read(name: str) -> NDArray[np.float32]:
        weight: NDArray[np.float32] = read_linear(checkpoint, name).numpy()
        return weight

    masks = UniformMasks(like, read)
    outline = outline_of(checkpoint, covered_linears_of(checkpoint, r.include, r.exclude), r.fuse)
    plan = settle_together(plan_linears(masks, r.lowering, costs), r.lowering, outline, costs)
    graph = export_graph(r.model, dtype=r.dtype, opset=r.opset, logits=r.logits)
    write_hybrid(graph, checkpoint, masks, plan, path, r.dtype, update, fuse=r.fuse)


def _write_uniform_of_onnx(r: Recipe, like: MaskSet, path: Path, update: Update) -> None:
    import onnx_ir as ir

    from patch_compile.sources.onnx_model.find import find_onnx_linears
    from patch_compile.sources.onnx_model.hybrid import write_onnx_hybrid
    from patch_compile.sources.onnx_model.read import read_onnx
    from patch_compile.sources.onnx_model.weights import read_weight

    model, dtype = read_onnx(r.model), ir.DataType[r.dtype.upper()]
    found = find_onnx_linears(r.model, model).linears
    masks = UniformMasks(like, lambda name: read_weight(found[name], dtype))
    plan = plan_linears(masks, r.lowering)
    write_onnx_hybrid(model, found, masks, plan, dtype, path, update, fuse=r.fuse)


def _masks_of(out: OutFolder, r: Recipe) -> MaskSet:
    """Of the build; `compile` leaves them where they were."""
    own = out.path / MASKS
    return MaskSet.load(own if own.is_file() or r.mask is None else r.mask)
