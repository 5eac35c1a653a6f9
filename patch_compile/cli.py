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
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts) or int(parts[1]) % 4:
            self.fail(
                f"{value!r}: a tile is ROWSxCOLS with COLS a multiple of 4, such as 128x128", param, ctx
            )
        return int(parts[0]), int(parts[1])


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
    click.option("--tile", type=_Tile(), help="Tile size. [128x128]"),
    click.option("--include", multiple=True, metavar="GLOB", help="Cover only linears that match (re:… for a regex)."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave linears that match dense (re:… for a regex)."),
    click.option("--calib", metavar="TEXT", help="Calibration text: a .txt, .jsonl or .parquet file, a folder or the "
                 "name of a dataset. [the model writes its own]"),
    click.option("--windows", type=int, help="Calibration windows. [32]"),
    click.option("--length", type=int, help="Tokens in a calibration window. [512]"),
    click.option("--seed", type=int, help="Seed of everything random. [0]"),
    click.option("--device", metavar="DEVICE", help="Where the model runs while masks are learned. [cuda if there is one]"),
    click.option("--criterion", type=click.Choice(_CRITERIA), help="What oneshot and sparsegpt rank tiles by. "
                 "[fisher; relative for sparsegpt]"),
    click.option("--damping", type=float, help="Damping of the Hessian, as a share of its mean diagonal. [0.01]"),
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
_engine = _options(
    click.option("--mask", type=_PATH, metavar="FILE", help="Use these masks; nothing is learned."),
    click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), help="Type of the graph and the engine. [float16]"),
    click.option("--opset", type=int, help="ONNX opset: 23 (Attention, RMSNormalization), or 20 (plain ops). [23]"),
    click.option("--fuse/--no-fuse", default=None, help="One node for a linear and what follows it (bias, GELU, residual; "
                 "gate and up). [fuse]"),
    click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx", "onnx"]), help="[what this machine has]"),
    click.option("--target", metavar="SM[,SM…]", help="GPUs to build for, such as sm86,sm89 or a6000. [local GPU, or sm86]"),
    click.option("--min-shapes", metavar="SPEC", help="Smallest shapes, as trtexec spells them, or batch=1,sequence=1."),
    click.option("--opt-shapes", metavar="SPEC", help="Shapes to tune for."),
    click.option("--max-shapes", metavar="SPEC", help="Largest shapes."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="Builder effort. [the backend's]"),
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
@click.argument("model", type=_PATH, metavar="MODEL_DIR", required=False)
@click.option("-o", "--out", type=_PATH, help="Folder to write. [./NAME-patch-RATIO]")
@_learning
@_engine
@_proof
@click.option(
    "--recipe", type=_PATH, metavar="FILE", help="Settings of an earlier build (OUT/recipe.yaml); flags win."
)
@click.option("--force", is_flag=True, help="Replace OUT; its stages that would come out the same are kept.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted build.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def build(recipe: Path | None, force: bool, resume: bool, as_json: bool, **flags: Any) -> None:
    """Learn masks, compile, build the engine and prove what it cost: MODEL_DIR → OUT."""
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
