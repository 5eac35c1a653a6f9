"""The command line: flags in, one call into the stage that does the work, exit code out.

Nothing heavy is imported here: `patch-compile --help` answers without torch, transformers, onnx or tensorrt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from patch_compile.errors import PatchCompileError

__all__ = ["main"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PATH = click.Path(path_type=Path)
INTERRUPTED = 130


class _Tile(click.ParamType[tuple[int, int]]):
    name = "ROWSxCOLS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        from masklearn.tile_text import parse_tile

        try:
            return parse_tile(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def apply(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


# Defaults are None throughout: the recipe holds them, and a flag that was not given must not override a recipe file.
_METHODS = ("oneshot", "sparsegpt", "wanda", "magnitude", "patch-joint", "patch-tile", "maskllm")
_CRITERIA = ("fisher", "relative", "raw", "magnitude", "random")
_learning = _options(
    click.option("--ratio", metavar="RATIO", help="Share of weights to zero, 0 … 0.5 (every tile 2:4), or PATTERN=RATIO,…"),
    click.option("--per-layer", is_flag=True, default=None, help="Give every linear the ratio. [all linears together]"),
    click.option("--method", type=click.Choice(_METHODS), help="How masks are learned. [oneshot]"),
    click.option("--tile", type=_Tile(), help="Tile size; 128x* is 128 rows and all of K. [128x128]"),
    click.option("--include", multiple=True, metavar="GLOB", help="Cover only linears that match (re:… for a regex)."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave linears that match dense (re:… for a regex)."),
    click.option("--calib", metavar="TEXT", help="Calibration text: a .txt, .jsonl or .parquet file, a folder or the "
                 "name of a dataset; of FILE.onnx an .npz of inputs. [the model writes its own]"),
    click.option("--windows", type=int, help="Calibration windows. [32]"),
    click.option("--length", type=int, help="Tokens in a calibration window. [512]"),
    click.option("--seed", type=int, help="Seed of everything random. [0]"),
    click.option("--device", metavar="DEVICE", help="Where the model runs while masks are learned. [cuda if there is one]"),
    click.option("--criterion", type=click.Choice(_CRITERIA), help="What oneshot and sparsegpt rank tiles by. "
                 "[fisher; relative for sparsegpt]"),
    click.option("--damping", type=float, help="Damping of the Hessian, as a share of its mean diagonal. [0.01]"),
    click.option("--permute/--no-permute", default=None, help="Reorder the hidden channels of feed-forward parts first, so "
                 "that those cheap to prune share tiles; the model computes the same. [no-permute]"),
    click.option("--repair", type=click.Choice(["none", "distill"]), help="Train the surviving weights to the dense model's "
                 "logits. [distill; none for sparsegpt, wanda, magnitude]"),
    click.option("--repair-steps", type=int, help="Steps of repair. [by model size]"),
    click.option("--repair-minutes", type=float, help="Stop repair after so many minutes."),
    click.option("--batch", type=int, help="Windows in a training step. [2]"),
    click.option("--learning-rate", type=float, help="Of training. [the method's own]"),
    click.option("--prior", metavar="METHOD|FILE", help="What patch-joint, patch-tile and maskllm start from: a one-shot "
                 "method or a masks file. [oneshot]"),
    click.option("--steps", type=int, help="Training steps of patch-joint, patch-tile and maskllm. [200]"),
    click.option("--distill-weight", type=float, help="Weight of the KL to the dense logits beside their loss. [1]"),
    click.option("--checkpoint-every", type=int, help="Training steps between checkpoints. [50]"),
    click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of training and solving. [bf16 if fast]"),
    click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory, more time in training."),
)  # fmt: skip
_fusing = _options(
    click.option("--fuse", metavar="KINDS", help="What shares a node, where the graph allows it: all, none, or some of qkv "
                 "(q, k, v), gated (gate, up, SiLU·mul), activation (GELU, SiLU), residual, bias; commas between. [all]"),
    click.option("--no-fuse", "fuse", flag_value="none", help="A node for each linear alone: --fuse none."),
)  # fmt: skip
_graph = _options(
    click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), help="Type of the graph and the engine. [float16]"),
    click.option("--opset", type=int, help="ONNX opset: 23 (Attention, RMSNormalization), or 20 (plain ops). [23]"),
    click.option("--logits", type=click.Choice(["last", "all"]), help="Positions that a decoder gives logits of; generation "
                 "needs the last one, which spares a long prompt gigabytes. [last]"),
    _fusing,
)  # fmt: skip
_engine = _options(
    click.option("--mask", type=_PATH, metavar="FILE", help="Use these masks; nothing is learned."),
    _graph,
    click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx", "onnx"]), help="[what this machine has]"),
    click.option("--target", metavar="SM[,SM…]", help="GPUs to build for, such as sm86,sm89 or a6000. [local GPU, or sm86]"),
    click.option("--min-shapes", metavar="SPEC", help="Smallest shapes, as trtexec spells them, or batch=1,sequence=1."),
    click.option("--opt-shapes", metavar="SPEC", help="Shapes to tune for."),
    click.option("--max-shapes", metavar="SPEC", help="Largest shapes."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="Builder effort. [the backend's]"),
    click.option("--timing-cache", type=_PATH, metavar="FILE", help="Keep measured tactics there (tensorrt)."),
    click.option("--weight-streaming", is_flag=True, default=None, help="Weights may stay in host memory at run time."),
    click.option("--version-compatible", is_flag=True, default=None, help="Later versions of the backend may run it."),
    click.option("--hardware-compatible", is_flag=True, default=None, help="Any GPU from Ampere on may run it (tensorrt; "
                 "tensorrt-rtx takes several --target)."),
)  # fmt: skip
_lowering = _options(
    click.option("--lowering", metavar="LOWERING", help="How linears are compiled: auto (plugin where it is predicted "
                 "faster, else dense), plugin, split or dense, or PATTERN=LOWERING,… [auto]"),
    click.option("--batch-size", type=int, help="Sequences that speed is predicted for. [16]"),
    click.option("--prompt-tokens", type=int, help="Tokens of their prompts. [128]"),
    click.option("--generated-tokens", type=int, help="Tokens generated after each. [128]"),
)  # fmt: skip
_planning = _options(
    click.option("--speedup", type=float, metavar="X", help="Prune as much as a whole workload X times as fast is predicted "
                 "to take."),
    click.option("--budget-ms", type=float, metavar="MS", help="The same for milliseconds that the workload may take."),
    _lowering,
)  # fmt: skip
_evaluation = _options(
    click.option("--eval", "eval_text", metavar="TEXT", help="Held-out text for perplexity. [the model writes its own]"),
    click.option("--eval-windows", type=int, help="Windows of it. [8]"),
    click.option("--eval-length", type=int, help="Tokens in a window. [1024]"),
)  # fmt: skip
_proof = _options(
    _evaluation,
    click.option("--prompt", help="Prompt of the sentence that dense and hybrid model each generate."),
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PATCH_COMPILE"})
@click.version_option(package_name="patch-compile")
def cli() -> None:
    """Compile a Hugging Face model into a TensorRT engine of dense and 2:4-sparse tiles (PATCH).

    Every option can also be set in the environment, as PATCH_COMPILE_<COMMAND>_<OPTION>.
    """


@cli.command()
@click.argument("model", type=_PATH, metavar="MODEL_DIR|FILE.onnx", required=False)
@click.option("-o", "--out", type=_PATH, help="Folder to write. [./NAME-patch-RATIO]")
@_learning
@_planning
@_engine
@_proof
@click.option(
    "--recipe", type=_PATH, metavar="FILE", help="Settings of an earlier build (OUT/recipe.yaml); flags win."
)
@click.option("--force", is_flag=True, help="Replace OUT; its stages that would come out the same are kept.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted build.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def build(recipe: Path | None, force: bool, resume: bool, as_json: bool, **flags: Any) -> None:
    """Learn masks, compile, build the engine and prove what it cost: MODEL_DIR → OUT.

    FILE.onnx is any ONNX model: its MatMul, Gemm and 1×1 Conv with constant weights are the linears. --calib is then an
    .npz of one array per graph input: with an axis more than the input, the first counts runs; without, it counts samples.
    Learned by oneshot, sparsegpt or wanda on these inputs, or by magnitude without them.
    """
    from patch_compile.pipeline import build as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.console import print_report

    settings = (Recipe.load(recipe) if recipe else {}) | _given(flags)
    if "model" not in settings:
        raise click.UsageError("Missing argument 'MODEL_DIR' (or --recipe FILE).")
    report = run(Recipe.parse(settings), force=force, resume=resume)
    print_report(report, as_json=as_json)


@cli.command()
@click.argument("model", type=_PATH, metavar="MODEL_DIR")
@click.option(
    "-o",
    "--out",
    type=_PATH,
    required=True,
    metavar="OUT",
    help="Folder to write: masks and the pruned model.",
)
@_learning
@_evaluation
@click.option(
    "--baselines",
    metavar="NAMES",
    help="Compare with simpler ways to prune: all, or some of dense, uniform-2:4, "
    "ffn-only, magnitude-tiles, random-tiles, unstructured.",
)
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def learn(baselines: str | None, force: bool, resume: bool, as_json: bool, **flags: Any) -> None:
    """Learn the hybrid masks of MODEL_DIR, and the weights that go with them, without compiling.

    `build MODEL_DIR --mask OUT/masks.safetensors` goes on from there. Training shares itself out under
    `torchrun -m patch_compile learn …`, which accelerate launch starts too.
    """
    from patch_compile.pipeline import learn as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.console import print_masks

    summary = run(Recipe.parse(_given(flags)), baselines, force=force, resume=resume)
    if summary is not None:
        print_masks(summary, as_json=as_json)


@cli.command()
@click.argument("model", type=_PATH, metavar="MODEL_DIR")
@click.option(
    "--ratio", metavar="RATIO", help="Share of weights to zero, 0 … 0.5 (every tile 2:4), or PATTERN=RATIO,…"
)
@click.option("--mask", type=_PATH, metavar="FILE", help="Plan for the tile maps of these masks.")
@_planning
@_fusing
@click.option("--target", metavar="CARD", help="Card of the table of devices, or sm86. [local GPU, or sm86]")
@click.option("--tile", type=_Tile(), help="Tile size. [128x128]")
@click.option("--include", multiple=True, metavar="GLOB", help="Cover only linears that match.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave linears that match dense.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(as_json: bool, **flags: Any) -> None:
    """Predict how `build` would compile each linear of MODEL_DIR, and how fast; no weight is read.

    Without --mask every linear is taken to have the ratio, or the one that --speedup or --budget-ms takes.
    """
    from patch_compile.planning import plan as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.plan_table import print_plan

    print_plan(run(Recipe.parse(_given(flags))), as_json=as_json)


def _print_passes(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    """Say what the passes are, and exit: MODEL_DIR is not asked for."""
    if not given or ctx.resilient_parsing:
        return
    from patch_compile.passes import describe_passes

    for number, (name, what) in enumerate(describe_passes(), start=1):
        click.echo(f"{number:2} {name}: {what}")
    ctx.exit()


@cli.command("compile")
@click.argument("model", type=_PATH, metavar="MODEL_DIR")
@click.option("--mask", type=_PATH, required=True, metavar="FILE", help="The masks (masks.safetensors).")
@click.option(
    "-o",
    "--out",
    type=_PATH,
    required=True,
    metavar="OUT",
    help="Folder to write: onnx/model.onnx and how each linear is compiled.",
)
@_graph
@_lowering
@click.option("--target", metavar="CARD", help="Card that `auto` predicts for. [local GPU, or sm86]")
@click.option("--include", multiple=True, metavar="GLOB", help="Covered linears, as when masks were learned.")
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Linears left dense, as when masks were learned."
)
@click.option(
    "--dump-passes", type=_PATH, metavar="DIR", help="Write the graph, without weights, after each pass."
)
@click.option(
    "--list-passes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_passes,
    help="Name the passes in their order, and exit.",
)
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def compile_command(dump_passes: Path | None, force: bool, as_json: bool, **flags: Any) -> None:
    """Write MODEL_DIR as hybrid ONNX under given masks, without engine and proof.

    Runs on ONNX Runtime as it is; `build --mask FILE` makes an engine too, and proves what the masks cost.
    """
    from patch_compile.compiling import compile_model
    from patch_compile.recipe import Recipe
    from patch_compile.report.console import print_compiled

    recipe = Recipe.parse(_given(flags) | {"backend": "onnx"})
    print_compiled(compile_model(recipe, dump_passes=dump_passes, force=force), as_json=as_json)


@cli.command()
@click.argument("path", type=_PATH, metavar="OUT")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT…")
@click.option(
    "--runner",
    type=click.Choice(["engine", "onnx"]),
    help="What runs it. [the engine where this machine can]",
)
@click.option("--plugin", type=_PATH, metavar="FILE", help="Plugin to take in place of the engine's own.")
@click.option("--tokenizer", type=_PATH, metavar="DIR", help="Folder with the tokenizer. [OUT/model]")
@click.option("--chat", is_flag=True, help="A prompt is what a user says, by the model's chat template.")
@click.option("--new-tokens", type=click.IntRange(1), default=128, help="Most tokens to generate. [128]")
@click.option(
    "--temperature", type=float, help="0 takes the most likely token. [as generation_config.json says, or 0]"
)
@click.option("--top-k", type=int, help="Draw from so many of the most likely tokens.")
@click.option(
    "--top-p", type=float, help="Draw from the most likely tokens that hold this much of the probability."
)
@click.option("--repetition-penalty", type=float, help="Above 1 makes tokens that came before less likely.")
@click.option("--seed", type=int, help="Seed of the draws. [a new one each time]")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print texts, tokens and times as JSON.")
def run(
    path: Path,
    prompts: tuple[str, ...],
    runner: str | None,
    plugin: Path | None,
    tokenizer: Path | None,
    chat: bool,
    new_tokens: int,
    stop: tuple[str, ...],
    as_json: bool,
    **sampling: Any,
) -> None:
    """Continue prompts with what `build` wrote to OUT: its engine on a GPU, else its ONNX file on ONNX Runtime.

    Which of them it is goes to stderr, the text to stdout, as it comes. Several prompts are one batch.
    """
    from patch_compile.report.generated import print_generated
    from patch_compile.running import run as generate

    alone = len(prompts) == 1 and not as_json
    generated = generate(
        path,
        prompts,
        say=lambda about: click.echo(f"runs on {about}", err=True),
        show=(lambda text: click.echo(text, nl=False)) if alone else None,
        runner=runner,
        plugin=plugin,
        tokenizer=tokenizer,
        chat=chat,
        new_tokens=new_tokens,
        stop=stop,
        sampling=_given(sampling),
    )
    print_generated(generated, as_json=as_json)


@cli.command("import-mask")
@click.argument("source", type=_PATH, metavar="SOURCE")
@click.option("--model", type=_PATH, required=True, metavar="MODEL_DIR", help="The model they are for.")
@click.option(
    "-o", "--out", type=_PATH, required=True, metavar="FILE", help="The MaskSet to write (masks.safetensors)."
)
@click.option(
    "--format",
    type=click.Choice(["auto", "maskllm", "patch", "checkpoint", "compressed-tensors"]),
    default="auto",
    help="What SOURCE is: an .npz of MaskLLM or PATCH, a pruned Hugging Face directory, or one of compressed-tensors "
    "(sparse-24-bitmask, sparse-bitmask). [found by its content]",
)
@click.option("--tile", type=_Tile(), help="Tile size. [found: the largest that loses no 2:4 area]")
@click.option("--include", multiple=True, metavar="GLOB", help="Cover only linears that match.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave linears that match dense.")
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def import_mask(out: Path, format: str, as_json: bool, **flags: Any) -> None:
    """Import masks that others published: SOURCE → FILE, for `build MODEL_DIR --mask FILE`."""
    from patch_compile.importing import import_mask as run
    from patch_compile.report.console import print_import

    print_import(run(out=out, format=None if format == "auto" else format, **flags), as_json=as_json)


@cli.command()
@click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx"]), help="[what this machine has]")
@click.option("--force", is_flag=True, help="Build even if the cache holds it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def plugin(backend: str | None, force: bool, as_json: bool) -> None:
    """Build the TensorRT plugin that runs PatchLinear, and say what it was built with."""
    from patch_compile.pipeline import build_plugin as run
    from patch_compile.report.console import print_plugin

    print_plugin(run(backend, force=force), as_json=as_json)


@cli.command()
@click.argument("path", type=_PATH, metavar="PATH")
@click.option("--all", "every", is_flag=True, help="A line for each tensor or linear. [one for each kind]")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(path: Path, every: bool, as_json: bool) -> None:
    """Say what a file or folder is, what is in it, and whether it is whole.

    PATH: an engine, an ONNX file, masks or other safetensors, the plugin, a model folder, or OUT. Exit code 1 when
    something in it is broken.
    """
    from patch_compile.inspecting import inspect_path
    from patch_compile.report.inspected import print_found

    found = inspect_path(path)
    print_found(found, every=every, as_json=as_json)
    if found.faults:
        raise click.exceptions.Exit(1)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> None:
    """Say what this machine can do, and how to mend what it lacks."""
    from patch_compile.doctor import examine
    from patch_compile.report.inspected import print_examined

    print_examined(examine(), as_json=as_json)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value not in (None, ())}


def main() -> None:
    """Entry point: exit codes 0 ok, 1 user or machine, 2 usage, 3 accuracy, 4 ratio or speed, 130 interrupted."""
    try:
        code = cli.main(standalone_mode=False)
    except PatchCompileError as error:
        code = _complain(error)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        code = INTERRUPTED
    sys.exit(code or 0)


def _complain(error: PatchCompileError) -> int:
    click.echo(click.style("error: ", fg="red", bold=True) + error.what, err=True)
    for label, text in (("why", error.why), ("fix", error.fix)):
        if text:
            click.echo(f"  {label}: {text}", err=True)
    return error.exit_code
