"""`compile`: write a checkpoint as hybrid ONNX under given masks."""

from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Compiled
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.artifacts.layout import MASKS, ONNX
from patch_compile.options import FORCE, GRAPH, MODEL_DIR, RESUME, BuildOptions

_SETTINGS = (
    "dtype", "opset", "logits", "fuse", "lowering", "batch_size", "prompt_tokens", "generated_tokens", "include", "exclude",
)  # fmt: skip


@takes(BuildOptions, _SETTINGS, extra="build")
def compile(
    given: Given,
    model: Annotated[StrPath, MODEL_DIR],
    out: Annotated[StrPath, Option(f"Folder to write: {ONNX}, and the plan of how each linear is compiled.", "OUT")],
    *,
    mask: Annotated[StrPath, Option(f"Masks to apply ({MASKS}).", "FILE")],
    graph: Annotated[StrPath | None, Option(
        "Compile this ONNX file, which another program exported from MODEL_DIR or from the pruned model of the masks.",
        "FILE", unset="the graph is exported here")] = None,
    target: Annotated[str | None, Option(
        "GPU that `lowering` auto predicts for: a card or an architecture.", "GPU[,GPU…]",
        unset="local GPU, or sm86")] = None,
    dump_passes: Annotated[StrPath | None, Option(
        "Write the graph, without weights, after each pass.", "DIR", group=GRAPH)] = None,
    force: Annotated[bool, FORCE] = False,
    resume: Annotated[bool, RESUME] = False,
) -> Compiled:  # fmt: skip
    """Write hybrid ONNX under given masks, without an engine.

    ONNX Runtime can run the result. OUT/plan.json tells how each linear is compiled. `build --mask FILE` also makes an
    engine and measures the loss of quality. `include` and `exclude` must be the same as when the masks were learned.

    `graph` takes what Edge-LLM, optimum, GenAI's model builder or torch.onnx exported. Its linears are found by the values
    of their weights, also where one product joins several linears. Its other nodes, its inputs and its outputs stay as they
    are.

    Raises UsageError for an invalid setting, and PatchCompileError for a model or masks that cannot be compiled.
    """
    from patch_compile.pipeline.compile import compile_model
    from patch_compile.recipe import GraphRecipe, Recipe

    settings = {name: given[name] for name in Recipe.model_fields if name in given}
    dump = None if dump_passes is None else Path(dump_passes)
    settings["backend"] = "onnx"
    recipe = Recipe.parse(settings) if graph is None else GraphRecipe.parse(settings | {"graph": graph})
    report = compile_model(recipe, dump_passes=dump, force=force, resume=resume)
    return Compiled(report, Path(report.path))
