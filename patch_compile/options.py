"""The options of the commands, each declared once.

`masklearn.options` has the options of learning, and `patch_compile.engine.options` the options of the engine's builder. An
option that only one command has and no recipe keeps is a parameter of its function in `patch_compile.api`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from masklearn import (
    IMPORTERS,
    LEARNING,
    REPAIR,
    BytesPerWeight,
    Count,
    Exclude,
    Include,
    LearnOptions,
    Ratio,
    Tile,
)
from masklearn.base.errors import HOW_TO_CORRECT, UsageError
from masklearn.base.option import Option, listed
from masklearn.base.printable import shown
from masklearn.choice.menu import parse_kinds
from patch_compile.engine.options import ENGINE, EngineSettings
from patch_compile.packing.fusion import FUSIONS, parse_fusions, spell_fusions

WORKLOAD, GRAPH, EVALUATION = "Workload", "Graph", "Evaluation"
GROUPS = (LEARNING, REPAIR, WORKLOAD, GRAPH, ENGINE, EVALUATION, "")  # in the order of `--help-all`
AUTO = "auto"
EDGELLM, PYTHON = "edgellm", "PYTHON"
# Settings whose flag is not their name. `--on/--off` can also be turned off.
FLAGS = {
    "out": ("-o", "--out"),
    "bytes_per_weight": ("--bytes",),
    "eval_text": ("--eval",),
    "service": ("--for",),
    "permute": ("--permute/--no-permute",),
}


def flags_of(setting: str) -> tuple[str, ...]:
    """Returns the flags of a setting on the command line, the longest last."""
    return FLAGS.get(setting, ("--" + setting.replace("_", "-"),))


def flag_of(setting: str) -> str:
    """Returns the flag that stands for a setting in texts."""
    return flags_of(setting)[-1].partition("/")[0]


class Argument(Option):
    """A parameter that the command line takes without a flag."""


class ErrorStat(StrEnum):
    """Statistics of errors that can be compared with the tolerance, as Polygraphy names them."""

    ELEMWISE = "elemwise"
    MAX = "max"
    MEAN = "mean"
    MEDIAN = "median"
    QUANTILE = "quantile"


MODEL_DIR = Argument(
    "A Hugging Face checkpoint folder, or a hub id: ORG/NAME, or ORG/NAME@REVISION.", "MODEL_DIR|ORG/NAME"
)
FORCE = Option("Replace OUT if it exists; refused if OUT holds files of yours.")
RESUME = Option("Continue an interrupted run.")
TRUST = Option(
    "Run the compiled plugin that came with OUT, though this installation did not build it.", group=ENGINE
)
RUNNER = Option(
    "Run the engine or the ONNX file.", unset="the engine, if this machine can run it", group=ENGINE
)
_learning, _workload = partial(Option, group=LEARNING), partial(Option, group=WORKLOAD)
_graph, _engine = partial(Option, group=GRAPH), partial(Option, group=ENGINE)
_evaluation = partial(Option, group=EVALUATION)


def with_python(setting: str, given: str, names: Sequence[str]) -> tuple[str, Path | None]:
    """Returns a value such as edgellm=PYTHON as its name, and the interpreter of the exporter's environment.

    names: the valid names. Raises UsageError for another name, and for an interpreter with another than edgellm.
    """
    name, named, python = given.partition("=")
    if name not in names or (named and (name != EDGELLM or not python)):
        words = ", ".join(names)
        why = f"It is one of {words}. {EDGELLM}={PYTHON} names the environment of its exporter."
        raise UsageError(f"The setting {setting} = {shown(given)} is not valid", why, HOW_TO_CORRECT)
    return name, Path(python) if python else None


# Checks import what they need when they run: `--help` imports this module.
def _shapes(setting: str) -> Callable[[str], str]:
    def check(spec: str) -> str:
        from patch_compile.engine.profiles import read_shapes

        for _ in read_shapes(spec, flag_of(setting)):
            pass
        return spec

    return check


def _targets(text: str) -> str:
    from patch_compile.hardware.cards import parse_targets

    parse_targets(text)
    return text


def _open_tile(value: Any) -> Any:
    return None if value == AUTO else value


def _speed(value: float | str) -> float | str:
    from patch_compile.planning.speed_goal import SpeedGoal

    goal = SpeedGoal.parse(value)
    return f"{goal.budget_ms!r}ms" if goal.speedup is None else goal.speedup


def _lowering(text: str) -> str:
    from patch_compile.planning.lowering import parse_lowering

    return parse_lowering(text)


def _known_format(name: str) -> str:
    if name not in (AUTO, *IMPORTERS):
        raise ValueError(f"The formats are {', '.join((AUTO, *IMPORTERS))}.")
    return name


# fmt: off
class _GraphOptions(LearnOptions):
    model: Path
    out: Path | None = None
    ratio: Annotated[Ratio | None, _learning(
        "Share of weights set to zero, 0 to 0.5. Linears that would not get faster on `target` are skipped and do not "
        "count. Also PATTERN=RATIO,….", "RATIO")] = None
    bytes_per_weight: Annotated[BytesPerWeight | None, _learning(
        "Target size instead of `ratio`: average bytes per 16-bit weight, from 2 (dense) to 1.125 (every tile 2:4 "
        "or 8:16). Use it to compare `kinds`. With `weights` auto a weight counts in its own type.", "B")] = None
    mask: Annotated[Path | None, _learning("Use these masks; nothing is learned.", "FILE")] = None
    pruned: Annotated[Path | None, _learning(
        "The pruned model that `mask` was imported from. Its weights are compiled, and their loss against MODEL_DIR, the "
        "dense model, is measured.", "DIR")] = None
    speedup: Annotated[float | str | None, _workload(
        "Make the workload X times as fast as the dense model, or let it take MS milliseconds (25ms), as predicted, at the "
        "least loss of quality. Types of weights, and kinds and size of tiles, are chosen unless an option names them.",
        "X|MSms", check=_speed)] = None
    tile: Annotated[Tile | None, _learning(
        "Tile size; 128x* is 128 rows and all of K. auto is the size with which a speed takes the fewest zeros.",
        "ROWSxCOLS", unset="128x128; auto for a speed", parse=_open_tile)] = None
    lowering: Annotated[str, _graph(
        "How linears are compiled: plugin (kernels of patch-compile), split (dense and 2:4 GEMMs of TensorRT), dense, or "
        "auto (plugin where it is predicted faster, else dense). Linears compiled dense are not pruned. With plugin, all "
        "linears are. Also PATTERN=LOWERING,….", "LOWERING",
        check=_lowering)] = "auto"
    batch_size: Annotated[int, _workload("Number of sequences in the workload, for which speed is predicted.", ge=1)] = 16
    prompt_tokens: Annotated[int, _workload("Tokens of each prompt of the workload, or of an encoder's texts.", ge=1)] = 128
    generated_tokens: Annotated[int, _workload("Tokens generated after each prompt.", ge=1)] = 128
    dtype: Annotated[Literal["float16", "bfloat16"], _graph(
        "Type of the graph and the engine.", unset="float16; for an ONNX file its own 16-bit type")] = "float16"
    opset: Annotated[int, _graph(
        "ONNX opset: 23 (Attention, RMSNormalization), or 20 to 22 (plain ops).", ge=20, le=23)] = 23
    logits: Annotated[Literal["last", "all"], _graph(
        "Positions whose logits a decoder returns. Generation needs only the last, which saves gigabytes on a long prompt."
        )] = "last"
    fuse: Annotated[tuple[str, ...], _graph(
        "Operations to fuse into the nodes of linears, where the graph allows it: all, none, or a comma-separated list of "
        f"{', '.join(f'{name} ({kind.summary})' for name, kind in FUSIONS.items())}.", "KINDS",
        parse=parse_fusions, spell=spell_fusions)] = tuple(FUSIONS)
    backend: Annotated[Literal["tensorrt", "tensorrt-rtx", "onnx"] | None, _engine(
        "TensorRT that builds the engine; onnx stops at the ONNX file.", unset="the best that this machine has")] = None
    target: Annotated[str | None, _engine(
        "GPUs to build for: cards or architectures, such as a6000 or sm86,sm89.", "GPU[,GPU…]",
        unset="local GPU, or sm86", check=_targets)] = None
    min_shapes: Annotated[str | None, _engine(
        "Smallest input shapes, spelled as for trtexec or as batch=1,sequence=1.", "SPEC",
        check=_shapes("min_shapes"))] = None
    opt_shapes: Annotated[str | None, _engine(
        "Input shapes to tune the engine for.", "SPEC", check=_shapes("opt_shapes"))] = None
    max_shapes: Annotated[str | None, _engine("Largest input shapes.", "SPEC", check=_shapes("max_shapes"))] = None


class _EvalOptions:
    eval_text: Annotated[str | None, _evaluation(
        "Held-out text for perplexity, other than that of `calib`.", "TEXT", unset="the model writes its own")] = None
    eval_windows: Annotated[int, _evaluation("Number of windows of evaluation text.", ge=1)] = 8
    eval_length: Annotated[int, _evaluation("Tokens in a window of evaluation text.", ge=2)] = 1024


class BuildOptions(_EvalOptions, EngineSettings, _GraphOptions):
    """Options of a build that recipe.yaml records."""


@dataclass(kw_only=True)
class VerifyOptions:
    """Options of `verify`. None stands for the value of the build."""

    only: Annotated[tuple[str, ...], Option(
        "Comma-separated list of questions to answer.", "QUESTIONS",
        parse=listed)] = ("compiled", "pruned", "built", "where")
    eval_text: Annotated[str | None, _evaluation(
        "Held-out text, other than calibration text.", "TEXT", unset="as in the build")] = None
    eval_windows: Annotated[int | None, _evaluation(
        "Number of windows of evaluation text.", "N", unset="as in the build", ge=1)] = None
    eval_length: Annotated[int | None, _evaluation(
        "Tokens in a window of evaluation text.", "N", unset="as in the build", ge=2)] = None
    lengths: Annotated[tuple[Count, ...], _graph(
        "Lengths in tokens of the prompts on which the hybrid ONNX and the checkpoint are compared.", "N,…",
        parse=listed)] = (1, 17, 96)
    atol: Annotated[float | None, _graph(
        "Absolute tolerance of a logit.", unset="what rounding explains", ge=0.0, finite=True)] = None
    rtol: Annotated[float | None, _graph("Relative tolerance of a logit.", unset="0", ge=0.0, finite=True)] = None
    check_error_stat: Annotated[ErrorStat, _graph(
        "Statistic of the error that must be within the tolerance.")] = ErrorStat.MAX
    fail_on: Annotated[tuple[str, ...], _evaluation(
        "Exit with code 3 if a limit is exceeded: ppl:+5% (over dense), ppl:12.5, kl:0.1, top1:90%, logits:0.5, "
        "output:1e-2.", "NAME:LIMIT")] = ()
    baselines: Annotated[tuple[str, ...], _evaluation(
        "Also measure simpler ways to prune: all, or a comma-separated list of dense-rounded, uniform-2:4, "
        "unstructured. The user's cache keeps the results.", "NAMES",
        unset="those in the cache", parse=listed)] = ()
    tasks: Annotated[tuple[str, ...], _evaluation(
        "Tasks of lm-evaluation-harness for both checkpoints, in transformers.", "NAMES", parse=listed)] = ()
    task_limit: Annotated[int | None, _evaluation("Number of items of each task.", "N", unset="all", ge=1)] = None
    task_folder: Annotated[Path | None, _evaluation("Folder with your own task files.", "DIR")] = None
    device: Annotated[str | None, _evaluation(
        "Where the checkpoints are compared.", "DEVICE", unset="cuda if there is one")] = None
    trust: Annotated[bool, TRUST] = False


_MOST_RUNS = 1_000_000  # of each model at each size
_sizes = partial(Option, metavar="N[,N…]", parse=listed, min_length=1)


@dataclass(kw_only=True)
class BenchOptions:
    """Options of `bench`."""

    batch_size: Annotated[tuple[Count, ...] | None, _sizes("Sequences in a batch.", unset="1,4,8,16")] = None
    prompt_tokens: Annotated[tuple[Count, ...] | None, _sizes("Tokens in a prompt.", unset="128,1024")] = None
    past_tokens: Annotated[tuple[Count, ...] | None, _sizes(
        "Tokens before a decode step.", unset="as `prompt_tokens`")] = None
    iterations: Annotated[int, Option("Timed runs of each model.", "N", ge=1, le=_MOST_RUNS)] = 100
    warm_up: Annotated[int, Option("Untimed runs of each model before them.", "N", ge=0, le=_MOST_RUNS)] = 10
    against: Annotated[tuple[str, ...], Option(
        "Models to time for comparison: dense, uniform-2:4, both (comma-separated) or none.", "NAMES",
        parse=listed)] = ("dense", "uniform-2:4")
    calibrate: Annotated[bool, Option("Base later plans for this GPU on these times.")] = False
    trust: Annotated[bool, TRUST] = False


class ImportOptions:
    """Options of `import-mask`."""

    source: Path
    out: Path
    model: Annotated[Path, Option("Model that the masks are for.", "MODEL_DIR|ORG/NAME")]
    format: Annotated[str, Option(
        f"Format of SOURCE: {'; '.join(f'{name}, {kind.summary}' for name, kind in IMPORTERS.items())}. auto detects it by "
        "the content.", choices=(AUTO, *IMPORTERS), check=_known_format)] = AUTO
    tile: Annotated[Tile | None, Option(
        "Tile size.", "ROWSxCOLS", unset="the largest that loses no sparsity")] = None
    kinds: Annotated[str, Option(
        "Kinds of tiles to look for: 2:4, auto, a list such as 2:4,8:16, or PATTERN=LIST,…. A tile gets the tightest kind "
        "that holds it.", "KINDS", check=parse_kinds)] = "2:4"
    include: Include = ()
    exclude: Exclude = ()
