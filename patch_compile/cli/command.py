"""Makes commands of the library's functions. Parameters, types and defaults of the function become those of the
command."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click

from patch_compile.cli.environment import CommandWithVariables, Lines, name_variables

if TYPE_CHECKING:
    from patch_compile.api.result import Result
    from patch_compile.report.terminal.parts import Part

__all__ = ["AS_JSON", "Option", "command", "print_result"]

_PATH = click.Path(path_type=Path)
_PLAIN: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING}
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@dataclass(frozen=True)
class Option:
    """Additional facts about a parameter for the command line, beside its name, type and default.

    flags: spelling on the command line, empty for its name; unset: description of the default if the default itself does
    not show it; choices: the allowed names of a registry; spell: writes a default as text; shortcuts: flags that stand
    for a value, with that value and their help.
    """

    help: str
    metavar: str | None = None
    unset: str = ""
    flags: tuple[str, ...] = ()
    choices: Sequence[str] = ()
    spell: Callable[[Any], str] | None = None
    shortcuts: Mapping[str, tuple[str, str]] | None = None


def command(
    function: Callable[..., Any],
    options: Mapping[str, Option],
    arguments: Mapping[str, str] | None = None,
    *,
    summary: str,
    name: str | None = None,
    python_only: Sequence[str] = (),
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that calls the library and prints the result.

    function: function of the library; options: options of its parameters; arguments: its parameters that have no flag,
    with their metavar; summary: the command's line in the list of commands; python_only: its parameters that the command
    line lacks. The decorated function gets only the parameters that the user wrote. Its own options come last, and its
    docstring is the help text.
    """
    arguments = arguments or {}

    def make(skin: Callable[..., None]) -> click.Command:
        named = name or function.__name__.replace("_", "-")
        made = click.command(named, cls=CommandWithVariables, short_help=summary)(_only_given(skin))
        own: list[click.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in arguments:
                own.append(_argument(parameter, arguments[parameter.name]))
            elif parameter.name not in python_only:
                own += _options(parameter, options[parameter.name])
        made.params[:0] = own
        name_variables(made)
        return made

    return make


def print_result(result: Result, *, as_json: bool, parts: Iterable[Part] | None = None) -> None:
    """Print a result to stdout. parts: printed instead of the result's own parts."""
    if as_json:
        click.echo(result.json())
        return
    from patch_compile.report.terminal.parts import show

    show(result.parts() if parts is None else parts)


def _only_given(skin: Callable[..., None]) -> Callable[..., None]:
    def call(**values: Any) -> None:
        skin(**{name: value for name, value in values.items() if value not in (None, ())})

    call.__doc__ = skin.__doc__
    if hasattr(skin, "__click_params__"):  # options that click.option has added
        call.__click_params__ = skin.__click_params__  # type: ignore[attr-defined]
    return call


def _argument(parameter: inspect.Parameter, metavar: str) -> click.Argument:
    kind, many = _type_of(parameter.annotation)
    required = parameter.default is inspect.Parameter.empty
    return click.Argument(
        [parameter.name], type=kind, metavar=metavar, nargs=-1 if many else 1, required=required
    )


def _options(parameter: inspect.Parameter, option: Option) -> list[click.Parameter]:
    kind, many = _type_of(parameter.annotation)
    flags = option.flags or ("--" + parameter.name.replace("_", "-"),)
    about: dict[str, Any] = {"help": _help(option, parameter.default), "metavar": option.metavar}
    if parameter.default is inspect.Parameter.empty:
        about["required"] = True
    else:
        about["default"] = None  # the function has the defaults, which must not override a recipe file
    if option.choices:
        kind = click.Choice(option.choices)
    if many and kind is click.STRING and option.metavar == "TEXT":
        kind = Lines()
    is_flag = kind is click.BOOL
    made: list[click.Parameter] = [
        click.Option([*flags, parameter.name], type=kind, is_flag=is_flag, multiple=many, **about)
    ]
    for flag, (value, words) in (option.shortcuts or {}).items():
        made.append(click.Option([flag, parameter.name], flag_value=value, default=None, help=words))
    return made


def _help(option: Option, default: Any) -> str:
    """Returns the help text, followed in brackets by the default."""
    said = option.unset or (option.spell or _spelled)(default)
    return f"{option.help} [{said}]" if said else option.help


def _spelled(default: Any) -> str:
    if default is inspect.Parameter.empty or default is None or isinstance(default, bool):
        return ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _type_of(annotation: Any) -> tuple[click.ParamType[Any], bool]:
    """Returns the click type of an annotation, and True if the option may be repeated."""
    union = get_origin(annotation) in (UnionType, Union)
    members = [one for one in (get_args(annotation) if union else (annotation,)) if one is not NoneType]
    origins = {get_origin(one): one for one in members}
    if Literal in origins:
        return click.Choice(get_args(origins[Literal])), False
    if os.PathLike in origins:
        return _PATH, False
    if str in members:
        return click.STRING, False
    if Sequence in origins:
        (item,) = get_args(origins[Sequence])
        return _type_of(item)[0], True
    if members == [bool]:
        return click.BOOL, False
    (member,) = members
    return _PLAIN[member], False
