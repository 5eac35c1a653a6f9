"""`build`: learn masks, compile the model, build the engine and measure the loss of quality."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from masklearn.base.extras import require_extra
from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import FinishedBuild

__all__ = ["build"]


@takes_given
def build(
    given: Given,
    model: StrPath | None = None,
    out: StrPath | None = None,
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
    lowering: str = "auto",
    batch_size: int = 16,
    prompt_tokens: int = 128,
    generated_tokens: int = 128,
    mask: StrPath | None = None,
    dtype: Literal["float16", "bfloat16"] = "float16",
    opset: int = 23,
    logits: Literal["last", "all"] = "last",
    fuse: str | Sequence[str] = "all",
    backend: Literal["tensorrt", "tensorrt-rtx", "onnx"] | None = None,
    target: str | None = None,
    min_shapes: str | None = None,
    opt_shapes: str | None = None,
    max_shapes: str | None = None,
    optimization_level: int | None = None,
    timing_cache: StrPath | None = None,
    weight_streaming: bool = False,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    embed_plugin: bool = False,
    eval_text: str | None = None,
    eval_windows: int = 8,
    eval_length: int = 1024,
    prompt: str = "The capital of France is",
    service: Literal["edgellm"] | None = None,
    edgellm_python: StrPath | None = None,
    recipe: StrPath | None = None,
    force: bool = False,
    resume: bool = False,
) -> FinishedBuild:
    """Turn a model into an engine whose linears are mosaics of dense and 2:4 tiles, in the folder `out`.

    model: a Hugging Face checkpoint folder or an ONNX file. out: the folder to write, None for ./NAME-patch-RATIO. The
    other arguments are the options of `patch-compile build`; `docs/reference/cli.md` describes each of them.

    One of five arguments sets the amount of pruning. ratio: zeroed weights / weights, 0 … 0.5, or "PATTERN=RATIO,…".
    bytes_per_weight: bytes of a packed 16-bit weight on average, 2 for dense. mask: a file of masks; no masks are learned
    then. speedup: the predicted speed-up of the whole workload. budget_ms: the predicted milliseconds of the whole workload.
    The workload is `batch_size` prompts of `prompt_tokens`, each continued by `generated_tokens`.

    Learning of the masks. method, criterion: names. tile: (rows, columns) or "128x*". kinds: kinds of tiles beside dense,
    "2:4", "auto" or names such as "8:16,12:16". weights: type of the linears' weights, such as "int8" or "int8,mlp.*=int4",
    "auto" to choose one for each linear by what it loses for the speed; None for that of the graph. include, exclude:
    patterns of linears. calib: calibration text of `windows` windows of `length` tokens, or an .npz of inputs for an ONNX
    file. repair: how the surviving weights are trained afterwards, for `repair_steps` or `repair_minutes`. device: the
    device that runs the model. None stands for the default of the method.

    Compilation: lowering, dtype, opset, logits, fuse. The engine: backend; target such as "sm86,sm89"; min_shapes,
    opt_shapes and max_shapes in the syntax of trtexec; optimization_level 0 … 5; timing_cache. The proof: perplexity on
    `eval_windows` windows of `eval_length` tokens of eval_text, and a continuation of `prompt`.

    service: "edgellm" also writes what TensorRT Edge-LLM builds its engine from to OUT/edgellm, as `export` does; no engine
    is built here then, unless a backend is given. edgellm_python: see `export`.

    recipe: settings of an earlier build (OUT/recipe.yaml); arguments that are given here override them. force: replace
    `out`. resume: continue an interrupted build.

    Raises UsageError for an invalid setting, AccuracyError if the ONNX file does not compute the same as the pruned
    model, SpeedError for a speed that cannot be reached, and PatchCompileError for any other problem with files or the
    machine.
    """
    require_extra("build", "`patch-compile build`")
    from patch_compile.errors import UsageError
    from patch_compile.pipeline.build import build as run
    from patch_compile.recipe import Recipe, settings_from

    with settings_from(Path(recipe)) if recipe is not None else nullcontext():
        settings = Recipe.load(Path(recipe)) if recipe is not None else {}
        settings |= {name: given[name] for name in Recipe.model_fields if name in given}
        if "model" not in settings:
            raise UsageError(
                "No model is given",
                "A build needs a checkpoint or an ONNX file.",
                "Give MODEL_DIR, or an earlier recipe with --recipe.",
            )
        parsed = Recipe.parse(settings if service is None else {"backend": "onnx"} | settings)
    if service is None:
        if edgellm_python is not None:
            raise UsageError(
                "--edgellm-python is given without --for edgellm",
                "It names the environment of Edge-LLM's exporter.",
                "Give both, or leave it out.",
            )
        return FinishedBuild(run(parsed, force=force, resume=resume))
    from patch_compile.pipeline.for_edgellm import build_for_edgellm

    python = None if edgellm_python is None else Path(edgellm_python)
    return FinishedBuild(build_for_edgellm(parsed, python, force=force, resume=resume))
