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
_learning = _options(
    click.option("--ratio", type=float, help="Share of weights to zero, 0 … 0.5 (0.5 = every tile 2:4)."),
    click.option("--method", type=click.Choice(["wanda", "magnitude"]), help="How tiles and weights are ranked. [wanda]"),
    click.option("--tile", type=_Tile(), help="Tile size. [128x128]"),
    click.option("--include", multiple=True, metavar="GLOB", help="Cover only linears that match (re:… for a regex)."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Leave linears that match dense (re:… for a regex)."),
    click.option("--calib", type=_PATH, help="Calibration text: a file or a folder. [the model writes its own]"),
    click.option("--windows", type=int, help="Calibration windows. [16]"),
    click.option("--length", type=int, help="Tokens in a calibration window. [512]"),
    click.option("--seed", type=int, help="Seed of everything random. [0]"),
)  # fmt: skip
_engine = _options(
    click.option("--mask", type=_PATH, metavar="FILE", help="Use these masks; nothing is learned."),
    click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), help="Type of the graph and the engine. [float16]"),
    click.option("--opset", type=int, help="ONNX opset: 23 (Attention, RMSNormalization), or 20 (plain ops). [23]"),
    click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx", "onnx"]), help="[what this machine has]"),
    click.option("--target", metavar="SM[,SM…]", help="GPUs to build for, such as sm86,sm89 or a6000. [local GPU, or sm86]"),
    click.option("--min-shapes", metavar="SPEC", help="Smallest shapes, as trtexec spells them, or batch=1,sequence=1."),
    click.option("--opt-shapes", metavar="SPEC", help="Shapes to tune for."),
    click.option("--max-shapes", metavar="SPEC", help="Largest shapes."),
    click.option("--optimization-level", type=click.IntRange(0, 5), help="Builder effort. [the backend's]"),
)  # fmt: skip
_proof = _options(
    click.option("--eval", "eval_text", type=_PATH, help="Held-out text for perplexity. [the model writes its own]"),
    click.option("--eval-windows", type=int, help="Windows of it. [8]"),
    click.option("--eval-length", type=int, help="Tokens in a window. [1024]"),
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
    "-o", "--out", type=_PATH, required=True, metavar="FILE", help="The MaskSet to write (masks.safetensors)."
)
@_learning
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def learn(out: Path, force: bool, as_json: bool, **flags: Any) -> None:
    """Learn the hybrid masks of MODEL_DIR and write them, without compiling."""
    from patch_compile.pipeline import learn as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.console import print_masks

    masks = run(Recipe.parse(_given(flags)), out, force=force)
    print_masks(masks, out, as_json=as_json)


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
