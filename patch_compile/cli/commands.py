"""The commands. Each one calls the library function of its name and prints the result."""

from __future__ import annotations

import sys
from typing import Any

import click

import patch_compile as library
from masklearn.base.printable import one_line, printable
from patch_compile.cli.command import command, print_result, printing
from patch_compile.cli.output import writing_output
from patch_compile.errors import NOT_CHECKED, AccuracyError


def _print_passes(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    """List the passes, and exit. MODEL_DIR is not required for this."""
    if not given or ctx.resilient_parsing:
        return
    from patch_compile.passes import describe_passes

    for number, (name, what) in enumerate(describe_passes(), start=1):
        click.echo(f"{number:2} {name}: {what}")
    ctx.exit()


@command(library.compile, basic="out mask graph target lowering dtype resume force")
@click.option(
    "--list-passes", is_flag=True, is_eager=True, expose_value=False, callback=_print_passes,
    help="List the passes in their order, and exit.",
)  # fmt: skip
def _compile(as_json: bool, **given: Any) -> None:
    print_result(library.compile(**given), as_json=as_json)


@command(library.inspect)
@click.option(
    "--all", "every", is_flag=True, help="Print a line for each tensor or linear. [a line for each kind]"
)
def _inspect(every: bool, as_json: bool, **given: Any) -> None:
    inspected = library.inspect(**given)
    print_result(inspected, as_json=as_json, every=every)
    if inspected.faults:
        raise click.exceptions.Exit(1)


@command(library.learn, basic="out ratio target calib weights kinds resume force")
def _learn(as_json: bool, **given: Any) -> None:
    learned = library.learn(**given)
    if learned is not None:  # only the first of several processes has the result
        print_result(learned, as_json=as_json)


@command(library.plan, basic="ratio mask speedup target weights kinds lowering table as_json")
@click.option(
    "--table",
    is_flag=True,
    help="Print all tables, and the reason for every choice.",
)
def _plan(table: bool, as_json: bool, **given: Any) -> None:
    print_result(library.plan(**given), as_json=as_json, every=table)


@command(library.run)
def _run(as_json: bool, **given: Any) -> None:
    from patch_compile.report.inspect import times_line

    given["prompts"] = [_standard_input() if prompt == "-" else prompt for prompt in given["prompts"]]
    alone = len(given["prompts"]) == 1 and not as_json
    generated = library.run(
        **given,
        say=lambda about: click.echo(one_line(f"runs on {about}"), err=True),
        show=(lambda text: _echo(printable(text), nl=False)) if alone else None,
    )
    if as_json:
        _echo(generated.json())
        return
    pairs = zip(given["prompts"], generated.texts, strict=True)
    _echo("" if alone else "\n\n".join(printable(f"{prompt}\n→ {text}") for prompt, text in pairs))
    click.echo(times_line(generated.report), err=True)


def _standard_input() -> str:
    """Returns the text on standard input, without the line end that a shell adds."""
    return sys.stdin.buffer.read().decode(errors="surrogateescape").removesuffix("\n")


def _echo(text: str, *, nl: bool = True) -> None:
    with writing_output():
        click.echo(text, nl=nl)


@command(library.verify, basic="only eval_text baselines tasks fail_on as_json")
def _verify(as_json: bool, **given: Any) -> None:
    # Imported here, because it imports NumPy and pydantic, which `--help` need not wait for.
    from patch_compile.artifacts.verify import Outcome

    verified = library.verify(**given)
    print_result(verified, as_json=as_json)
    codes = {Outcome.FAILED: AccuracyError.exit_code, Outcome.NOT_CHECKED: NOT_CHECKED}
    if code := codes.get(verified.report.outcome):
        raise click.exceptions.Exit(code)


COMMANDS = (
    printing(library.bench),
    printing(
        library.build,
        basic="out speedup ratio target calib eval_text weights backend resume force recipe",
    ),
    printing(library.compare),
    _compile,
    printing(library.doctor),
    printing(library.export),
    printing(library.import_mask),
    _inspect,
    _learn,
    _plan,
    printing(library.build_plugin, name="plugin"),
    printing(library.reduce_linear, name="debug reduce"),
    _run,
    _verify,
)
