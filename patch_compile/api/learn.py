"""`learn`: learn hybrid masks, and the weights that belong to them, without compiling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from masklearn import LearnOptions
from masklearn.base.option import Option
from patch_compile.api.results import LearnedMasks
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.options import EVALUATION, FORCE, MODEL_DIR, RESUME, BuildOptions

_SETTINGS = (
    "ratio", "bytes_per_weight", "tile", *LearnOptions.__annotations__, "speedup", "batch_size",
    "prompt_tokens", "generated_tokens", "eval_text", "eval_windows", "eval_length",
)  # fmt: skip


@takes(BuildOptions, _SETTINGS, extra="build")
def learn(
    given: Given,
    model: Annotated[StrPath, MODEL_DIR],
    out: Annotated[StrPath, Option("Folder to write: masks and the pruned model.", "OUT")],
    *,
    target: Annotated[str | None, Option(
        "Leave linears dense that would not get faster on this GPU: a card or an architecture, such as a6000 or sm86. "
        "`speedup` is predicted for it, else for the GPU of this machine, or sm86 without a GPU.",
        "GPU[,GPU…]", unset="prune everywhere")] = None,
    baselines: Annotated[str | Sequence[str], Option(
        "Compare with simpler ways to prune: all, or a comma-separated list of dense, dense-rounded (nothing "
        "pruned: the loss by `weights` only), uniform-2:4, unstructured.", "NAMES", group=EVALUATION)] = (),
    force: Annotated[bool, FORCE] = False,
    resume: Annotated[bool, RESUME] = False,
) -> LearnedMasks | None:  # fmt: skip
    """Learn hybrid masks and weights, without compiling.

    `build MODEL_DIR --mask OUT/masks.safetensors` compiles the result. Without `target` all covered linears are pruned, also
    linears that `build` then compiles dense. Training runs in several processes under
    `accelerate launch --no_python patch-compile learn …` or `torchrun --no-python patch-compile learn …`; the first process
    has the result.

    Raises UsageError for an invalid setting, SpeedError for a speed that cannot be reached, and PatchCompileError for any
    other problem with files or the machine.
    """
    from patch_compile.pipeline.learn import learn as run
    from patch_compile.recipe import Recipe

    settings = {name: given[name] for name in Recipe.model_fields if name in given}
    names = baselines if isinstance(baselines, str) else ",".join(baselines) or None
    report = run(Recipe.parse(settings), names, force=force, resume=resume)
    return None if report is None else LearnedMasks(report, Path(report.path))
