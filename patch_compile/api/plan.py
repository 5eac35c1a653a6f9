"""`plan`: predict how a build would compile each linear, and its speed."""

from collections.abc import Sequence

from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import Planned

__all__ = ["plan"]


@takes_given
def plan(
    given: Given,
    model: StrPath,
    *,
    ratio: float | str | None = None,
    mask: StrPath | None = None,
    speedup: float | None = None,
    budget_ms: float | None = None,
    lowering: str = "auto",
    batch_size: int = 16,
    prompt_tokens: int = 128,
    generated_tokens: int = 128,
    fuse: str | Sequence[str] = "all",
    target: str | None = None,
    tile: tuple[int, int] | str = (128, 128),
    kinds: str = "2:4",
    weights: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Planned:
    """Predict what `build` would do with a checkpoint, without reading a weight.

    The settings are those of `build` with the same names. weights: types of the linears' weights; None takes those of the
    masks, and 16 bits without masks; "auto" takes for a speed those that are assumed to lose least. target: a card such as
    "a6000", or an architecture; None takes the GPU of this machine, or sm86 without one. Without a mask the plan assumes
    that every linear has the ratio, by tiles of the two kinds whose zeros are nearest to it.

    Raises UsageError for an invalid setting, SpeedError for a speed that cannot be reached, and PatchCompileError for a
    model or masks that cannot be compiled.
    """
    from patch_compile.pipeline.plan import plan as run
    from patch_compile.recipe import Recipe

    return Planned(run(Recipe.parse(given)))
