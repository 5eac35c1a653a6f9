"""`plan`: predict how a build would compile each linear, and its speed."""

from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import Planned
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.options import MODEL_DIR, BuildOptions

_SETTINGS = (
    "ratio", "speedup", "lowering", "batch_size", "prompt_tokens", "generated_tokens", "fuse", "tile", "kinds",
    "weights", "include", "exclude",
)  # fmt: skip


@takes(BuildOptions, _SETTINGS)
def plan(
    given: Given,
    model: Annotated[StrPath, MODEL_DIR],
    *,
    mask: Annotated[StrPath | None, Option("Masks to plan for.", "FILE")] = None,
    target: Annotated[str | None, Option(
        "GPUs to predict for: cards or architectures, such as a6000 or sm86,sm89.",
        "GPU[,GPU…]", unset="local GPU, or sm86")] = None,
) -> Planned:  # fmt: skip
    """Predict how `build` would compile each linear.

    The speed is predicted too. No weights are read: only config.json is needed, and fetched for a hub id. Without `mask`
    the plan assumes that each linear has the ratio given by `ratio`, with tiles of the two kinds whose shares of zeros are
    nearest to it; for `speedup` it prunes whole linears, those first that save most time per zero. Without
    `weights` it takes the types of the masks, or 16 bits.

    Raises UsageError for an invalid setting, SpeedError for a speed that cannot be reached, and PatchCompileError for a
    model or masks that cannot be compiled.
    """
    from patch_compile.pipeline.plan import plan as run
    from patch_compile.recipe import Recipe

    return Planned(run(Recipe.parse(given, weights=False)))
