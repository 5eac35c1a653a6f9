"""The command line: flags in, one call into the stage that does the work, exit code out.

Nothing heavy is imported here: `patch-compile --help` answers without torch, transformers, onnx or tensorrt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from masklearn.importers.base import IMPORTERS
from patch_compile.cli import options as shared
from patch_compile.cli.on_out import COMMANDS
from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import MASKS, ONNX, RECIPE

__all__ = ["main"]

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PATCH_COMPILE"})
@click.version_option(package_name="patch-compile")
def cli() -> None:
    """Compile a Hugging Face model into a TensorRT engine of dense and 2:4-sparse tiles (PATCH).

    Every option can also be set in the environment, as PATCH_COMPILE_<COMMAND>_<OPTION>.
    """


@cli.command()
@click.argument("model", type=shared.PATH, metavar="MODEL_DIR|FILE.onnx", required=False)
@click.option("-o", "--out", type=shared.PATH, help="Folder to write. [./NAME-patch-RATIO]")
@shared.learning
@shared.planning
@shared.engine
@shared.proof
@click.option(
    "--recipe",
    type=shared.PATH,
    metavar="FILE",
    help=f"Settings of an earlier build (OUT/{RECIPE}); flags win.",
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
    from patch_compile.build.stages import build as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.terminal.console import print_report

    settings = (Recipe.load(recipe) if recipe else {}) | shared.given(flags)
    if "model" not in settings:
        raise click.UsageError("Missing argument 'MODEL_DIR' (or --recipe FILE).")
    report = run(Recipe.parse(settings), force=force, resume=resume)
    print_report(report, as_json=as_json)


@cli.command()
@click.argument("model", type=shared.PATH, metavar="MODEL_DIR")
@click.option(
    "-o",
    "--out",
    type=shared.PATH,
    required=True,
    metavar="OUT",
    help="Folder to write: masks and the pruned model.",
)
@shared.learning
@shared.evaluation
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
    `accelerate launch -m patch_compile learn …`, and under torchrun.
    """
    from patch_compile.build.stages import learn as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.terminal.console import print_masks

    summary = run(Recipe.parse(shared.given(flags)), baselines, force=force, resume=resume)
    if summary is not None:
        print_masks(summary, as_json=as_json)


@cli.command()
@click.argument("model", type=shared.PATH, metavar="MODEL_DIR")
@click.option(
    "--ratio", metavar="RATIO", help="Share of weights to zero, 0 … 0.5 (every tile 2:4), or PATTERN=RATIO,…"
)
@click.option("--mask", type=shared.PATH, metavar="FILE", help="Plan for the tile maps of these masks.")
@shared.planning
@shared.fusing
@click.option("--target", metavar="CARD", help="Card of the table of devices, or sm86. [local GPU, or sm86]")
@click.option("--tile", type=shared.Tile(), help="Tile size. [128x128]")
@shared.covering
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(as_json: bool, **flags: Any) -> None:
    """Predict how `build` would compile each linear of MODEL_DIR, and how fast; no weight is read.

    Without --mask every linear is taken to have the ratio, or the one that --speedup or --budget-ms takes.
    """
    from patch_compile.build.plan import plan as run
    from patch_compile.recipe import Recipe
    from patch_compile.report.terminal.plan import print_plan

    print_plan(run(Recipe.parse(shared.given(flags))), as_json=as_json)


def _print_passes(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    """Say what the passes are, and exit: MODEL_DIR is not asked for."""
    if not given or ctx.resilient_parsing:
        return
    from patch_compile.passes import describe_passes

    for number, (name, what) in enumerate(describe_passes(), start=1):
        click.echo(f"{number:2} {name}: {what}")
    ctx.exit()


@cli.command("compile")
@click.argument("model", type=shared.PATH, metavar="MODEL_DIR")
@click.option("--mask", type=shared.PATH, required=True, metavar="FILE", help=f"The masks ({MASKS}).")
@click.option(
    "-o",
    "--out",
    type=shared.PATH,
    required=True,
    metavar="OUT",
    help=f"Folder to write: {ONNX} and how each linear is compiled.",
)
@shared.graph
@shared.lowering
@click.option("--target", metavar="CARD", help="Card that `auto` predicts for. [local GPU, or sm86]")
@shared.covering
@click.option(
    "--dump-passes",
    type=shared.PATH,
    metavar="DIR",
    help="Write the graph, without weights, after each pass.",
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
@click.option("--resume", is_flag=True, help="Take up what a run that was killed has left.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def compile_command(dump_passes: Path | None, force: bool, resume: bool, as_json: bool, **flags: Any) -> None:
    """Write MODEL_DIR as hybrid ONNX under given masks, without engine and proof.

    Give --include and --exclude as when the masks were learned.

    Runs on ONNX Runtime as it is; `build --mask FILE` makes an engine too, and proves what the masks cost.
    """
    from patch_compile.build.compile import compile_model
    from patch_compile.recipe import Recipe
    from patch_compile.report.terminal.console import print_compiled

    recipe = Recipe.parse(shared.given(flags) | {"backend": "onnx"})
    summary = compile_model(recipe, dump_passes=dump_passes, force=force, resume=resume)
    print_compiled(summary, as_json=as_json)


@cli.command("import-mask")
@click.argument("source", type=shared.PATH, metavar="SOURCE")
@click.option("--model", type=shared.PATH, required=True, metavar="MODEL_DIR", help="The model they are for.")
@click.option(
    "-o",
    "--out",
    type=shared.PATH,
    required=True,
    metavar="FILE",
    help=f"The MaskSet to write ({MASKS}).",
)
@click.option(
    "--format",
    type=click.Choice(["auto", *IMPORTERS]),
    default="auto",
    help=f"What SOURCE is: {'; '.join(f'{name}, {kind.summary}' for name, kind in IMPORTERS.items())}. "
    "[found by its content]",
)
@click.option("--tile", type=shared.Tile(), help="Tile size. [found: the largest that loses no 2:4 area]")
@shared.covering
@click.option("--force", is_flag=True, help="Replace FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def import_mask(out: Path, format: str, as_json: bool, **flags: Any) -> None:
    """Import masks that others published: SOURCE → FILE, for `build MODEL_DIR --mask FILE`."""
    from patch_compile.build.import_masks import import_mask as run
    from patch_compile.report.terminal.console import print_import

    print_import(run(out=out, format=None if format == "auto" else format, **flags), as_json=as_json)


@cli.command()
@click.option("--backend", type=click.Choice(["tensorrt", "tensorrt-rtx"]), help="[what this machine has]")
@click.option("--force", is_flag=True, help="Build even if the cache holds it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def plugin(backend: str | None, force: bool, as_json: bool) -> None:
    """Build the TensorRT plugin that runs PatchLinear, and say what it was built with."""
    from patch_compile.build.stages import build_plugin as run
    from patch_compile.report.terminal.console import print_plugin

    print_plugin(run(backend, force=force), as_json=as_json)


@cli.command()
@click.argument("path", type=shared.PATH, metavar="PATH")
@click.option("--all", "every", is_flag=True, help="A line for each tensor or linear. [one for each kind]")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(path: Path, every: bool, as_json: bool) -> None:
    """Say what a file or folder is, what is in it, and whether it is whole.

    PATH: an engine, an ONNX file, masks or other safetensors, the plugin, a model folder, or OUT. Exit code 1 when
    something in it is broken.
    """
    from patch_compile.inspect import inspect_path
    from patch_compile.report.terminal.inspect import print_found

    found = inspect_path(path)
    print_found(found, every=every, as_json=as_json)
    if found.faults:
        raise click.exceptions.Exit(1)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> None:
    """Say what this machine can do, and how to mend what it lacks."""
    from patch_compile.inspect.doctor import examine
    from patch_compile.report.terminal.inspect import print_examined

    print_examined(examine(), as_json=as_json)


for _command in COMMANDS:
    cli.add_command(_command)


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
