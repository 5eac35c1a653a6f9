"""Options as environment variables: PATCH_COMPILE_<COMMAND>_<OPTION> stands for an option that the user did not write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import click

from patch_compile.cli.output import writing_output
from patch_compile.debug import VARIABLE as DEBUG_VARIABLE
from patch_compile.errors import UsageError
from patch_compile.file_lock import VARIABLE as LOCKS_VARIABLE
from patch_compile.onnx_io.time_limit import VARIABLE
from patch_compile.plugin.targets import VARIABLE as ARCHS_VARIABLE

_PREFIX = "PATCH_COMPILE_"
_SURE = 0.9  # likeness of names that differ by a letter or two
_OTHERS = {
    VARIABLE,
    ARCHS_VARIABLE,
    DEBUG_VARIABLE,
    LOCKS_VARIABLE,
    "PATCH_COMPILE_MODEL", "PATCH_COMPILE_TEXTS",  # the model and the texts of tests and samples
}  # fmt: skip


class Lines(click.types.StringParamType):
    """Text that may be given several times. In a variable, each line is one text, because a prompt has spaces."""

    envvar_list_splitter = "\n"


def name_variables(command: click.Command) -> None:
    """Give each option of a command the variable that is named after its flag."""
    for option in _options(command):
        option.envvar = _variable(str(command.name), option.opts)


class CommandWithVariables(click.Command):
    """A command that refuses to run while a variable with our prefix is misspelled."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError for a misspelled variable, which may be why an option seems to be missing."""
        try:
            with writing_output():
                rest = super().parse_args(ctx, args)
                _check_variables(ctx)
                return rest
        except click.UsageError:
            _check_variables(ctx)
            raise
        raise click.exceptions.Exit  # the reader of the help text has left


def _check_variables(ctx: click.Context) -> None:
    group = ctx.find_root().command
    if not isinstance(group, click.Group):
        return
    commands = (group, *group.commands.values())
    known = {str(option.envvar) for command in commands for option in _options(command) if option.envvar}
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known | _OTHERS:
            near = _nearest(name.removeprefix(_PREFIX), [one.removeprefix(_PREFIX) for one in sorted(known)])
            raise UsageError(
                f"The environment variable {name} names no option",
                f"Variables that begin with {_PREFIX} stand for options, and no command has this option.",
                f"Correct it to {_PREFIX}{near}, or unset it." if near else "Unset it.",
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    """Returns the known name that this one misspells: the name that differs by a letter or two, else the longest with which
    this one begins, else the most alike; empty if none is like it."""
    shorter = sorted((one for one in known if name.startswith(f"{one}_")), key=len, reverse=True)
    alike = get_close_matches(name, known, n=1)
    return next(iter([*get_close_matches(name, known, n=1, cutoff=_SURE), *shorter, *alike]), "")


def _options(command: click.Command) -> Iterator[click.Option]:
    yield from (one for one in command.params if isinstance(one, click.Option))


def _variable(command: str, flags: Sequence[str]) -> str:
    flag = max(flags, key=len)  # --out, not -o
    return f"{_PREFIX}{command}_{flag.lstrip('-')}".replace("-", "_").replace(" ", "_").upper()
