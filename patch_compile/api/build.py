"""`build`: learn masks, compile the model, build the engine and measure the loss of quality."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, get_type_hints

from masklearn.base.option import Option
from patch_compile.api.results import FinishedBuild
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.artifacts.layout import RECIPE
from patch_compile.options import EDGELLM, RESUME, Argument, BuildOptions, with_python

_SETTINGS = tuple(name for name in get_type_hints(BuildOptions) if name != "bytes_per_weight")


@takes(BuildOptions, _SETTINGS, extra="build")
def build(
    given: Given,
    model: Annotated[StrPath | None, Argument(
        "A Hugging Face checkpoint folder, a hub id (ORG/NAME, or ORG/NAME@REVISION), or an ONNX file.",
        "MODEL_DIR|ORG/NAME|FILE.onnx")] = None,
    out: Annotated[StrPath | None, Option("Folder to write.", unset="./NAME-patch-RATIO")] = None,
    *,
    service: Annotated[str | None, Option(
        "Also write the folder that this service builds its engine from: OUT/edgellm for TensorRT Edge-LLM. PYTHON is the "
        "interpreter of the environment with its exporter, by default this interpreter.", "edgellm[=PYTHON]")] = None,
    recipe: Annotated[StrPath | None, Option(
        f"Settings of an earlier build (OUT/{RECIPE}); options given here override them.", "FILE")] = None,
    force: Annotated[bool, Option(
        "Replace OUT if it exists; refused if OUT holds files of yours. Stages whose result would be the same are kept."
    )] = False,
    resume: Annotated[bool, RESUME] = False,
) -> FinishedBuild:  # fmt: skip
    """Learn masks, compile the model and build the engine.

    MODEL_DIR becomes OUT: an engine whose linears are mosaics of dense and 2:4 tiles, and the measured loss of quality. One
    of `ratio`, `mask` and `speedup` sets the amount of pruning. Speed is predicted for a
    workload: `batch_size` prompts of `prompt_tokens`, each continued by `generated_tokens`. With `service` no engine is
    built here, unless `backend` is given.

    ORG/NAME is a model of the Hugging Face hub, fetched into huggingface_hub's cache. A folder of this name comes first.

    FILE.onnx is any ONNX model. Its linears are MatMul, Gemm and 1×1 Conv with constant weights. `calib` is then an .npz
    with one array per graph input. An array with one axis more than the input holds one run per index of its first axis;
    otherwise its first axis counts samples. A scalar input takes one number for all runs. The methods oneshot, sparsegpt
    and wanda need such inputs; without them masks are learned by magnitude.

    Raises UsageError for an invalid setting, AccuracyError if the ONNX file does not compute the same as the pruned
    model, SpeedError for a speed that cannot be reached, and PatchCompileError for any other problem with files or the
    machine.
    """
    from patch_compile.artifacts.plan import Asked
    from patch_compile.errors import UsageError
    from patch_compile.pipeline import build as pipeline
    from patch_compile.recipe import Recipe, settings_from

    python = None if service is None else with_python("service", service, (EDGELLM,))[1]
    with settings_from(Path(recipe)) if recipe is not None else nullcontext():
        settings = Recipe.load(Path(recipe)) if recipe is not None else {}
        own = {name: given[name] for name in Recipe.model_fields if name in given}
        if own.keys() & Asked.model_fields.keys():
            # The amount of pruning that is given here replaces the recipe's.
            settings = {name: value for name, value in settings.items() if name not in Asked.model_fields}
        settings |= own
        if "model" not in settings:
            raise UsageError(
                "No model is given",
                "A build needs a checkpoint or an ONNX file.",
                "Give MODEL_DIR, or an earlier recipe with --recipe.",
            )
        parsed = Recipe.parse(settings if service is None else {"backend": "onnx"} | settings)
    if service is None:
        report = pipeline.build(parsed, force=force, resume=resume)
    else:
        report = pipeline.build_for_edgellm(parsed, python, force=force, resume=resume)
    return FinishedBuild(report, Path(report.path).parent)
