"""`compile`: write a checkpoint as hybrid ONNX under given masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from masklearn.base.extras import require_extra
from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import Compiled

__all__ = ["compile"]


@takes_given
def compile(
    given: Given,
    model: StrPath,
    out: StrPath,
    *,
    mask: StrPath,
    graph: StrPath | None = None,
    dtype: Literal["float16", "bfloat16"] = "float16",
    opset: int = 23,
    logits: Literal["last", "all"] = "last",
    fuse: str | Sequence[str] = "all",
    lowering: str = "auto",
    batch_size: int = 16,
    prompt_tokens: int = 128,
    generated_tokens: int = 128,
    target: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dump_passes: StrPath | None = None,
    force: bool = False,
    resume: bool = False,
) -> Compiled:
    """Write a checkpoint as hybrid ONNX under the masks of a file, without an engine or a proof.

    The settings are those of `build` with the same names. out: the folder to write, with onnx/model.onnx and plan.json,
    which tells how each linear is compiled. graph: an ONNX file that another program exported from the checkpoint, or from
    the pruned checkpoint of the masks. Its linears are found by the numbers of their weights, and the rest stays as it is.
    None exports the graph here. dump_passes: a folder that gets the graph, without weights, after each pass. force: replace
    `out`. resume: continue from the files of a run that was killed.

    Raises UsageError for an invalid setting, and PatchCompileError for a model or masks that cannot be compiled.
    """
    require_extra("build", "`patch-compile compile`")
    from patch_compile.pipeline.compile import compile_model
    from patch_compile.recipe import GraphRecipe, Recipe

    settings = {name: given[name] for name in Recipe.model_fields if name in given}
    dump = None if dump_passes is None else Path(dump_passes)
    settings["backend"] = "onnx"
    recipe = Recipe.parse(settings) if graph is None else GraphRecipe.parse(settings | {"graph": graph})
    return Compiled(compile_model(recipe, dump_passes=dump, force=force, resume=resume))
