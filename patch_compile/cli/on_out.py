"""The commands on what a build wrote: run it, prove it, time it, compare it with others. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from patch_compile.cli import options as shared
from patch_compile.errors import AccuracyError
from patch_compile.out.layout import BENCH, BENCH_MODELS, MODEL, VERIFY

__all__ = ["COMMANDS"]


@click.command()
@click.argument("path", type=shared.PATH, metavar="OUT")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT…")
@click.option(
    "--runner",
    type=click.Choice(["engine", "onnx"]),
    help="What runs it. [the engine where this machine can]",
)
@click.option(
    "--plugin",
    type=shared.PATH,
    metavar="FILE",
    help="Plugin for an engine that carries none. [the one beside it]",
)
@click.option(
    "--tokenizer", type=shared.PATH, metavar="DIR", help=f"Folder with the tokenizer. [OUT/{MODEL}]"
)
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
    from patch_compile.report.terminal.run import print_generated
    from patch_compile.runtime.run import run as generate

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
        sampling=shared.given(sampling),
    )
    print_generated(generated, as_json=as_json)


@click.command()
@click.argument("path", type=shared.PATH, metavar="OUT")
@click.option(
    "--only",
    metavar="QUESTIONS",
    help="Of compiled, pruned, built and where; commas between. [all of them]",
)
@click.option("--eval", "eval_text", metavar="TEXT", help="Held-out text. [as the build]")
@click.option("--eval-windows", type=int, metavar="N", help="Windows of it. [as the build]")
@click.option("--eval-length", type=int, metavar="N", help="Tokens in a window. [as the build]")
@click.option(
    "--lengths",
    metavar="N,…",
    help="Tokens of the prompts that hybrid and checkpoint are compared on. [1,17,96]",
)
@click.option("--atol", type=float, help="Absolute tolerance of a logit. [what rounding explains]")
@click.option("--rtol", type=float, help="Relative tolerance of a logit. [0]")
@click.option(
    "--check-error-stat",
    type=click.Choice(["elemwise", "max", "mean", "median", "quantile"]),
    help="What is held to the tolerance. [max]",
)
@click.option(
    "--fail-on",
    multiple=True,
    metavar="NAME:LIMIT",
    help="Exit with 3 beyond a limit: ppl:+5% (over dense), ppl:12.5, kl:0.1, top1:90%, logits:0.5, output:1e-2.",
)
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Also the loss with each linear pruned alone, and restored alone: minutes.",
)
@click.option("--sensitivity-tokens", type=int, metavar="N", help="Tokens that it is measured on. [512]")
@click.option(
    "--baselines",
    metavar="NAMES",
    help="Also prune in simpler ways: all, or some of uniform-2:4, ffn-only, magnitude-tiles, random-tiles, unstructured; "
    "kept in the user's cache, and shown from there. [those in the cache]",
)
@click.option(
    "--tasks",
    metavar="NAMES",
    help="Tasks of lm-evaluation-harness on local data; builtin is a small set of ours.",
)
@click.option(
    "--task-backend",
    type=click.Choice(["hf", "onnx"]),
    help="What runs them: transformers or ONNX Runtime. [hf]",
)
@click.option("--task-limit", type=int, metavar="N", help="Items of each task. [all]")
@click.option("--task-folder", type=shared.PATH, metavar="DIR", help="Folder with task files of your own.")
@click.option(
    "--prompt", multiple=True, help="Continue this with the dense and the hybrid model; may be repeated."
)
@click.option("--new-tokens", type=int, metavar="N", help="Tokens of such a continuation. [40]")
@click.option("--device", metavar="DEVICE", help="Where the checkpoints are compared. [cuda if there is one]")
@click.option("--json", "as_json", is_flag=True, help=f"Print OUT/{VERIFY}.")
def verify(path: Path, as_json: bool, **flags: Any) -> None:
    """Prove what OUT is: compiled right, pruned how much, built right, and where quality went.

    Three questions that are never mixed: does the hybrid ONNX compute what the pruned checkpoint does (to rounding), how
    far is that from the dense model, and does the engine compute what the ONNX does (on a GPU). Answers, inputs and
    outputs go to OUT/verify, and into OUT/report.html. Exit code 3 when something does not hold.
    """
    from patch_compile.report.terminal.verify import print_verified
    from patch_compile.verify.request import VerifyRequest
    from patch_compile.verify.verify import verify as run_verification

    found = run_verification(path, VerifyRequest.parse(shared.given(flags)))
    print_verified(found, as_json=as_json)
    if not found["passed"]:
        raise click.exceptions.Exit(AccuracyError.exit_code)


class _Counts(click.ParamType[tuple[int, ...]]):
    """Sizes: `1,4,16`."""

    name = "N[,N…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Whole numbers above 0; a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is no list of whole numbers above 0, such as 1,4,16", param, ctx)
        return tuple(map(int, parts))


class _Against(click.ParamType[tuple[Any, ...]]):
    """Models to compare with: see `parse_against`."""

    name = "NAMES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The models; a usage error for names that are none."""
        if isinstance(value, tuple):
            return value
        from patch_compile.bench.asked import parse_against

        try:
            return parse_against(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("path", type=shared.PATH, metavar="OUT")
@click.option(
    "--runner",
    type=click.Choice(["engine", "onnx"]),
    help="What is timed. [the engine where this machine can]",
)
@click.option(
    "--batch-size", "batches", type=_Counts(), help="Sequences in a batch. [engine: 1,4,8,16; onnx: 1,4]"
)
@click.option(
    "--prompt-tokens", "prompts", type=_Counts(), help="Tokens of a prompt. [engine: 128,1024; onnx: 128]"
)
@click.option(
    "--past-tokens", "pasts", type=_Counts(), help="Tokens before a decode step. [as --prompt-tokens]"
)
@click.option(
    "--iterations", type=click.IntRange(1), help="Runs of each model that count. [engine: 100; onnx: 10]"
)
@click.option("--warm-up", type=click.IntRange(0), help="Runs before them. [engine: 10; onnx: 2]")
@click.option(
    "--against",
    type=_Against(),
    help="What the hybrid model is timed against: dense, uniform-2:4, both with a "
    "comma between, or none. [dense,uniform-2:4]",
)
@click.option("--calibrate", is_flag=True, help="Let later plans for this GPU go by these times (engine).")
@click.option(
    "--keep", is_flag=True, help=f"Leave the dense and the uniform 2:4 model in OUT/{BENCH_MODELS}."
)
@click.option("--force", is_flag=True, help="Replace the times of an earlier run.")
@click.option("--json", "as_json", is_flag=True, help="Print the times as JSON.")
def bench(path: Path, force: bool, as_json: bool, **flags: Any) -> None:
    """Time prompts and decode steps of OUT's model, of the dense model and of a uniform 2:4 one, in turns.

    On a GPU their engines, with its clocks beside the times; elsewhere their ONNX files in ONNX Runtime on the CPU, which
    says nothing about a GPU. Times go to OUT/bench/bench.json, and into OUT/report.html.
    """
    from patch_compile.bench.asked import Asked
    from patch_compile.bench.run import bench as time_models
    from patch_compile.report.terminal.bench import print_benched
    from patch_compile.runtime import Runner

    given = {name: value for name, value in flags.items() if value is not None}
    if "runner" in given:
        given["runner"] = Runner(given["runner"])
    result = time_models(path, Asked(**given), force=force)
    print_benched(result, str(path / BENCH), as_json=as_json)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=shared.PATH, metavar="OUT…")
@click.option(
    "-o",
    "--out",
    type=shared.PATH,
    metavar="FOLDER|FILE",
    help="Draw the curve: FILE.png, FILE.svg, or FOLDER for both and the table as JSON. [the table alone]",
)
@click.option(
    "--x",
    "against",
    type=click.Choice(["ratio", "bytes", "speed"]),
    default="ratio",
    help="What quality is set "
    "against; a speed is measured where every OUT was timed on one GPU, else predicted. [ratio]",
)
@click.option("--force", is_flag=True, help="Replace pictures that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def compare(paths: tuple[Path, ...], out: Path | None, against: str, force: bool, as_json: bool) -> None:
    """Set builds of one model side by side: quality, size, speed, and which of them no other beats (Pareto points)."""
    from patch_compile.compare import Against
    from patch_compile.compare import compare as compare_builds
    from patch_compile.report.terminal.compare import print_compared

    print_compared(compare_builds(paths, out, Against(against), force=force), as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (
    run,
    verify,
    bench,
    compare,
)
