"""`learn`: learn hybrid masks, and the weights that belong to them, without compiling."""

from collections.abc import Sequence
from typing import Literal

from masklearn.base.extras import require_extra
from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import LearnedMasks

__all__ = ["learn"]


@takes_given
def learn(
    given: Given,
    model: StrPath,
    out: StrPath,
    *,
    ratio: float | str | None = None,
    bytes_per_weight: float | None = None,
    per_layer: bool = False,
    method: str = "oneshot",
    tile: tuple[int, int] | str = (128, 128),
    kinds: str = "2:4",
    weights: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    calib: str | None = None,
    windows: int = 32,
    length: int = 512,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    criterion: str | None = None,
    damping: float = 0.01,
    permute: bool = False,
    repair: Literal["none", "distill"] | None = None,
    repair_steps: int | None = None,
    repair_minutes: float | None = None,
    label_weight: float = 0.0,
    batch: int = 2,
    learning_rate: float | None = None,
    prior: str = "oneshot",
    steps: int = 200,
    distill_weight: float = 1.0,
    checkpoint_every: int = 50,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    gradient_checkpointing: bool = False,
    speedup: float | None = None,
    budget_ms: float | None = None,
    target: str | None = None,
    batch_size: int = 16,
    prompt_tokens: int = 128,
    generated_tokens: int = 128,
    eval_text: str | None = None,
    eval_windows: int = 8,
    eval_length: int = 1024,
    baselines: str | Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
) -> LearnedMasks | None:
    """Learn the hybrid masks of a checkpoint and write them, with the pruned model, to the folder `out`.

    The settings are those of `build` with the same names. bytes_per_weight takes the place of ratio: the average bytes of a
    packed 16-bit weight, by which masks with other kinds of tiles are compared, or with weights="auto" of a weight of its
    own type. baselines: simpler ways to prune that the masks are compared with on eval_text, "all" or names such as
    "uniform-2:4". target: a GPU, on which linears that gain nothing by pruning stay whole, and for which a speed is
    predicted; batch_size, prompt_tokens and generated_tokens are the workload. None prunes all covered linears, and predicts
    a speed for the GPU of this machine, or for sm86 without one. force: replace `out`. resume: continue an interrupted run.

    `build(model, mask=out/"masks.safetensors")` compiles the result. If several processes run this together (`accelerate
    launch`, torchrun), the first process gets the result and the others get None.

    Raises UsageError for an invalid setting, SpeedError for a speed that cannot be reached, and PatchCompileError for any
    other problem with files or the machine.
    """
    require_extra("build", "`patch-compile learn`")
    from patch_compile.pipeline.learn import learn as run
    from patch_compile.recipe import Recipe

    settings = {name: given[name] for name in Recipe.model_fields if name in given}
    names = baselines if isinstance(baselines, str) else ",".join(baselines) or None
    report = run(Recipe.parse(settings), names, force=force, resume=resume)
    return None if report is None else LearnedMasks(report)
