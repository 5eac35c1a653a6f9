"""The functions of the library, one for each command, with the options that only they have.

What a function runs is imported when it is called: `--help` imports this module.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from masklearn import LearnOptions
from masklearn.base.option import Option
from patch_compile.api.results import (
    Compared,
    Compiled,
    FinishedBuild,
    Generated,
    ImportedMasks,
    Inspected,
    LearnedMasks,
    Planned,
    Result,
    Verified,
)
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.artifacts.layout import MASKS, ONNX, PLAN, RECIPE
from patch_compile.engine.backend import Runner
from patch_compile.options import (
    EDGELLM,
    EVALUATION,
    FORCE,
    GRAPH,
    MODEL_DIR,
    RESUME,
    RUNNER,
    TRUST,
    Argument,
    BenchOptions,
    BuildOptions,
    ImportOptions,
    VerifyOptions,
    with_python,
)

_OF_BUILD = tuple(name for name in get_type_hints(BuildOptions) if name != "bytes_per_weight")


@takes(BuildOptions, _OF_BUILD, extra="build")
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


_OF_LEARN = (
    "ratio", "bytes_per_weight", "tile", *LearnOptions.__annotations__, "speedup", "batch_size",
    "prompt_tokens", "generated_tokens", "eval_text", "eval_windows", "eval_length",
)  # fmt: skip


@takes(BuildOptions, _OF_LEARN, extra="build")
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


_OF_COMPILE = (
    "dtype", "opset", "logits", "fuse", "lowering", "batch_size", "prompt_tokens", "generated_tokens", "include", "exclude",
)  # fmt: skip


@takes(BuildOptions, _OF_COMPILE, extra="build")
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
    of their weights, also where one GEMM joins several linears. Its other nodes, its inputs and its outputs stay as they
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


_OF_PLAN = (
    "ratio", "speedup", "lowering", "batch_size", "prompt_tokens", "generated_tokens", "fuse", "tile", "kinds",
    "weights", "include", "exclude",
)  # fmt: skip


@takes(BuildOptions, _OF_PLAN)
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


@takes(ImportOptions, extra="build")
def import_mask(
    given: Given,
    source: Annotated[StrPath, Argument(
        "An .npz of MaskLLM or PATCH, or a folder of Hugging Face or compressed-tensors.", "SOURCE")],
    out: Annotated[StrPath, Option(f"File to write ({MASKS}).", "FILE")],
    *,
    force: Annotated[bool, Option("Replace FILE if it exists.")] = False,
) -> ImportedMasks:  # fmt: skip
    """Import published masks for `build --mask`.

    SOURCE becomes FILE, for `build MODEL_DIR --mask FILE`.

    Raises UsageError for an invalid setting, and PatchCompileError for masks that cannot be imported.
    """
    from patch_compile.pipeline.import_masks import ImportRequest
    from patch_compile.pipeline.import_masks import import_mask as run

    settings = {name: value for name, value in given.items() if name != "force"}
    report = run(ImportRequest.parse(settings), force=force)
    return ImportedMasks(report, Path(report.path))


_COMPRESSED = "compressed-tensors"


@takes(extra="build")
def export(
    path: Annotated[StrPath, Argument("The folder of `build` or `learn`.", "OUT")],
    *,
    format: Annotated[str, Option(
        "compressed-tensors for transformers, edgellm for the builder of TensorRT Edge-LLM. PYTHON is the interpreter of "
        "the environment with its exporter, by default this interpreter.", "FORMAT[=PYTHON]")] = _COMPRESSED,
) -> Result:  # fmt: skip
    """Write the pruned model of OUT for other programs.

    OUT is the folder of `build` or `learn`. compressed-tensors packs int8 and int4 weights into OUT/compressed-tensors,
    which transformers reads. Pruned weights are zeros in it, because the format has no sparse form. Every weight is read
    back and compared with OUT/model.

    edgellm runs the exporter of TensorRT Edge-LLM on OUT/model, puts PatchLinear into its graph, and writes OUT/edgellm,
    from which Edge-LLM builds its engine. An earlier export is replaced.

    Raises UsageError for another format. Raises PatchCompileError if OUT was changed or has no pruned
    checkpoint, for "compressed-tensors" if it has no quantised linears or a model that the format cannot hold, and for
    "edgellm" if the exporter is not installed or fails.
    """
    from patch_compile.pipeline.export import export_checkpoint, export_edgellm

    name, python = with_python("format", format, (_COMPRESSED, EDGELLM))
    if name == EDGELLM:
        from patch_compile.pipeline.edgellm import find_exporter

        report = export_edgellm(Path(path), find_exporter(python, Path(path)))
    else:
        report = export_checkpoint(Path(path), name)
    return Result(report, Path(report.path))


@takes()
def build_plugin(
    backend: Annotated[Literal["tensorrt", "tensorrt-rtx"] | None, Option(
        "TensorRT to build the plugin for.", unset="the best that this machine has")] = None,
    *,
    force: Annotated[bool, Option("Build it even if the cache has it.")] = False,
) -> Result:  # fmt: skip
    """Build the TensorRT plugin that runs PatchLinear.

    A plugin in the cache is not built again. The tools that built the plugin are listed.

    Raises PatchCompileError with the name of a tool that is missing.
    """
    from patch_compile.pipeline.plugin import build_plugin as run

    report = run(backend, force=force)
    return Result(report, Path(report["path"]))


@takes(VerifyOptions, extra="build")
def verify(given: Given, path: Annotated[StrPath, Argument("The folder of a build.", "OUT")]) -> Verified:
    """Check OUT, and measure where pruning lost quality.

    Questions are answered separately; without `only`, all questions are asked that the build can answer. Compiled: does the
    hybrid ONNX compute the same as the pruned checkpoint, up to rounding? Pruned: how far is the pruned checkpoint from
    the dense model? Built: does the engine compute the same as the ONNX file (needs a GPU)? Where: which linears lost the
    quality? Answers, inputs and outputs are written to OUT/verify, and shown in OUT/report.html.

    PASSED means that every question asked has an answer and no check failed; `passed` of the result says so. The exit code
    is 3 if a check fails, and 5 (NOT CHECKED) if none fails but a question has no answer, such as Built on a machine
    without a GPU: leave such a question out with `only`.

    Raises UsageError for an invalid setting, and PatchCompileError if a file of OUT was changed, or the dense model is
    missing or does not fit into memory.
    """
    from patch_compile.verification.request import VerifyRequest
    from patch_compile.verification.verify import verify as run

    settings = {name: value for name, value in given.items() if name != "path"}
    return Verified(run(Path(path), VerifyRequest.parse(settings)), Path(path))


@takes(BenchOptions, extra="build")
def bench(
    given: Given,
    path: Annotated[StrPath, Argument("The folder of a build.", "OUT")],
    *,
    force: Annotated[bool, Option("Replace the times of an earlier run.")] = False,
) -> Result:  # fmt: skip
    """Time OUT's engine, a dense and a uniform 2:4 engine in turns.

    Prompts and decode steps of the three engines are timed in alternation on the GPU, whose clocks are reported with the
    times. Times are in milliseconds. They are written to OUT/bench/bench.json and shown in OUT/report.html.

    Raises UsageError for an invalid setting, and PatchCompileError if the engines cannot be run on this machine or do not
    fit into memory together.
    """
    from patch_compile.timing.request import BenchRequest
    from patch_compile.timing.run import bench as run

    settings = {name: value for name, value in given.items() if name not in ("path", "force")}
    return Result(run(Path(path), BenchRequest.parse(settings), force=force), Path(path))


@takes()
def compare(paths: Annotated[Sequence[StrPath], Argument("The folders of the builds.", "OUT…")]) -> Compared:
    """Compare quality, size and speed of builds of one model.

    Raises UsageError for an invalid setting, and PatchCompileError with the reason for builds that cannot be compared.
    """
    from patch_compile.comparison import compare as run

    return Compared(run([Path(path) for path in paths]))


@takes()
def inspect(
    path: Annotated[StrPath, Argument(
        "An engine, an ONNX file, masks or other safetensors, the plugin, a model, or OUT.", "PATH")],
    *,
    target: Annotated[str | None, Option(
        "Card, such as a6000, for which to tell why a pruned model is not faster. PATH is its folder or ONNX file; all "
        "covered weights are read.", "GPU", unset="weights are not looked at")] = None,
) -> Inspected:  # fmt: skip
    """Identify, describe and check a file or folder.

    With `target` it tells which linears of a model folder or ONNX file are 2:4, what can use it, and what they would gain.
    If the content is damaged, `faults` of the result says how, and the command exits with 1.
    """
    from patch_compile.inspection import inspect_path

    return Inspected(inspect_path(Path(path), target), Path(path))


_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")


@takes()
def run(
    given: Given,
    path: Annotated[StrPath, Argument("OUT, an engine or an ONNX file.", "OUT")],
    prompts: Annotated[Sequence[str], Argument("Texts to continue, as one batch.", "PROMPT…")],
    *,
    runner: Annotated[Runner | None, RUNNER] = None,
    plugin: Annotated[StrPath | None, Option(
        "Plugin library, for an engine that does not contain it.", "FILE", unset="the plugin compiled here")] = None,
    trust: Annotated[bool, TRUST] = False,
    tokenizer: Annotated[StrPath | None, Option("Folder of the tokenizer.", "DIR", unset="OUT/model")] = None,
    check: Annotated[bool, Option("Compare every file of OUT with its sha256 in the manifest first.")] = False,
    chat: Annotated[bool, Option("Treat each prompt as a user's message, in the model's chat template.")] = False,
    new_tokens: Annotated[int, Option("Largest number of tokens to generate.")] = 128,
    temperature: Annotated[float | None, Option(
        "Randomness of the draws; 0 takes the most likely token.", unset="as generation_config.json says, or 0")] = None,
    top_k: Annotated[int | None, Option("Draw from this many of the most likely tokens.")] = None,
    top_p: Annotated[float | None, Option("Draw from the most likely tokens that together have this probability.")] = None,
    repetition_penalty: Annotated[float | None, Option("Above 1 makes tokens that have occurred less likely.")] = None,
    seed: Annotated[int | None, Option("Seed of the draws.", unset="a new seed each time")] = None,
    stop: Annotated[Sequence[str], Option("End before this text; may be repeated.", "TEXT")] = (),
    say: Callable[[str], object] | None = None,
    show: Callable[[str], object] | None = None,
) -> Generated:  # fmt: skip
    """Continue prompts with OUT.

    The engine runs if the machine has a GPU, else the ONNX file runs in ONNX Runtime. The command prints the name of the
    runner on stderr, and the text on stdout while it is generated. Several prompts form one batch; the command reads the
    PROMPT - from standard input. The sizes of the files
    that run are compared with the manifest first; `check` compares every file with its sha256.

    Raises UsageError for an invalid setting, and PatchCompileError with the reason if this machine cannot run anything in
    OUT. `say` is called once before generation, with a description of the runner, and `show` with the text of the first
    prompt, piece by piece. `open_generator` keeps the model loaded for several calls.
    """
    from patch_compile.runtime.run import generate

    return Generated(
        generate(
            Path(path),
            prompts,
            runner=runner,
            plugin=None if plugin is None else Path(plugin),
            trust=trust,
            tokenizer=None if tokenizer is None else Path(tokenizer),
            check=check,
            chat=chat,
            new_tokens=new_tokens,
            stop=stop,
            sampling={name: given[name] for name in _SAMPLING if name in given},
            say=say,
            show=show,
        )
    )


@takes(extra="build")
def reduce_linear(
    path: Annotated[
        StrPath, Argument("The folder of a build, which may have failed after its ONNX file.", "OUT")
    ],
    *,
    linear: Annotated[str, Option(f"Name of the linear, as in {PLAN}.", "NAME")],
    out: Annotated[StrPath | None, Option("Folder to write.", unset="./NAME")] = None,
) -> Result:
    """Write one linear of OUT as a model of its own.

    hybrid.onnx is the linear as it was compiled, with its weights and the other linears of its node; dense.onnx has ordinary
    GEMMs with the same zeros. inputs.npz and outputs.npz were recorded in a run of the build's ONNX file on inputs of the
    proof. The error of this linear and a command that runs hybrid.onnx are printed. A bfloat16 build is written as float32
    copies that round like it, which ONNX Runtime can run.

    Raises PatchCompileError if the folder holds no ONNX file, or if the linear is missing or an ordinary dense GEMM.
    """
    from patch_compile.verification.reduce import reduce_linear as run

    report = run(Path(path), linear, Path(linear if out is None else out))
    return Result(report, Path(report.path))


@takes()
def doctor() -> Result:
    """Report what this machine can do and what it lacks.

    It says how to fix what is missing. Nothing is built or downloaded.
    """
    from patch_compile.inspection.doctor import examine

    return Result(examine())
