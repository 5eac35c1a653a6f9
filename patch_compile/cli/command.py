"""Makes click commands from the library's functions, which declare the options."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click

from masklearn.base.option import Option
from patch_compile.cli.output import writing_output
from patch_compile.options import GROUPS, Argument, flag_of, flags_of

if TYPE_CHECKING:
    from patch_compile.api.results import Result

_PATH = click.Path(path_type=Path)
_PLAIN: dict[Any, click.ParamType[Any]] = {int: click.INT, float: click.FLOAT, str: click.STRING}
_SETTING = re.compile(r"`([a-z_]+)`")
_WIDTH = 22  # columns of flags in front of their help
HELP_ALL = "patch_compile.help_all"
"""Key of a context's `meta`, true for the help text with all options."""


def _show_all(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_SHOW_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Show all options and exit.",
)  # fmt: skip


class _Lines(click.types.StringParamType):
    """Text that may be given several times. In a variable, each line is one text, because a prompt has spaces."""

    envvar_list_splitter = "\n"


class _Command(click.Command):
    """A command whose `--help` shows the basic options, if it says which, and `--help-all` all of them by group.

    basic: names of the basic options in their order, () to show all; groups: group of each option.
    """

    basic: Sequence[str] = ()
    groups: Mapping[str, str] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. The reader of a help text may leave early."""
        with writing_output():
            return super().parse_args(ctx, args)
        raise click.exceptions.Exit

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *([_SHOW_ALL] if self.basic else [])]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first paragraph, or all of them."""
        whole = self.help or ""
        self.help = whole if self._shows_all(ctx) else whole.partition("\n\n")[0]
        super().format_help_text(ctx, formatter)
        self.help = whole

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the basic options, or all of them by group."""
        if not self.basic:
            return super().format_options(ctx, formatter)
        options = {option.name: option for option in self.get_params(ctx) if isinstance(option, click.Option)}
        helps = (self.get_help_option(ctx), _SHOW_ALL)
        basic = [*(options[name] for name in self.basic), *(one for one in options.values() if one in helps)]
        titled = {"Basic": basic}
        if self._shows_all(ctx):
            rest = [option for option in options.values() if option not in basic]
            for group in GROUPS:
                titled[group or "Output"] = [one for one in rest if self.groups.get(one.name, "") == group]
        for title, shown in titled.items():
            if records := [record for option in shown if (record := option.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records, col_max=_WIDTH)
        return None

    def _shows_all(self, ctx: click.Context) -> bool:
        return not self.basic or HELP_ALL in ctx.meta


def with_flags(text: str, settings: Container[str]) -> str:
    """Returns a text in which these settings, which stand in backticks, such as `eval_text`, are flags: --eval."""
    return _SETTING.sub(lambda match: flag_of(match[1]) if match[1] in settings else match[0], text)


def command(
    function: Callable[..., Any], *, name: str = "", basic: str = ""
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that calls the library and prints the result.

    function: function of the library, made by `api.signature.takes`. Its docstring without the paragraph on exceptions is
    the help text, and its parameters with an `Option` are the options. basic: names of the options that `--help` shows, ""
    for all. The decorated function gets `as_json` and the parameters that the user wrote. Its own options come last.
    """

    def make(skin: Callable[..., None]) -> click.Command:
        command_name = name or function.__name__.replace("_", "-")
        options: dict[str, Option] = function.options  # type: ignore[attr-defined]
        declared = inspect.signature(function).parameters
        summary, *rest = (function.text or "").split("\n\n")  # type: ignore[attr-defined]
        words = "\n\n".join([summary, *(one for one in rest if not one.startswith("Raises"))])
        made = click.command(command_name, cls=_Command, short_help=summary, help=with_flags(words, options))(
            _only_given(skin)
        )
        made.params[:0] = [_param(declared[key], option) for key, option in options.items()]
        json_help = "Print the result as JSON."
        made.params.append(click.Option(["--json", "as_json"], is_flag=True, help=json_help))
        made.basic, made.groups = basic.split(), {key: option.group for key, option in options.items()}
        for option in made.params:
            if isinstance(option, click.Option):
                flag = max(option.opts, key=len).lstrip("-")  # --out, not -o
                option.envvar = re.sub("[- ]", "_", f"PATCH_COMPILE_{command_name}_{flag}").upper()
        return made

    return make


def printing(function: Callable[..., Result], *, name: str = "", basic: str = "") -> click.Command:
    """Make a command that prints the result of a function of the library."""

    def skin(as_json: bool, **given: Any) -> None:
        print_result(function(**given), as_json=as_json)

    return command(function, name=name, basic=basic)(skin)


def print_result(result: Result, *, as_json: bool, every: bool = False) -> None:
    """Print a result to stdout. every: see `Result.sections`."""
    from patch_compile.report.terminal import show

    text, sections = (result.json(), None) if as_json else ("", result.sections(every=every))
    with writing_output():
        if sections is None:
            click.echo(text)
        else:
            show(sections)


def _only_given(skin: Callable[..., None]) -> Callable[..., None]:
    def call(**values: Any) -> None:
        skin(**{name: value for name, value in values.items() if value not in (None, ())})

    if hasattr(skin, "__click_params__"):  # options that click.option has added
        call.__click_params__ = skin.__click_params__  # type: ignore[attr-defined]
    return call


def _param(parameter: inspect.Parameter, option: Option) -> click.Parameter:
    kind, many = _type_of(parameter.annotation)
    required = parameter.default is inspect.Parameter.empty
    name = parameter.name
    if isinstance(option, Argument):
        nargs = -1 if many else 1
        return click.Argument([name], type=kind, metavar=option.metavar, nargs=nargs, required=required)
    # The function has the defaults, which must not override a recipe file.
    about: dict[str, Any] = {"required": True} if required else {"default": None}
    if option.choices:
        kind = click.Choice(tuple(option.choices))
    if many and kind is click.STRING and option.metavar == "TEXT":
        kind = _Lines()
    words = _SETTING.sub(lambda match: flag_of(match[1]), option.text(_spelled(parameter.default)))
    about |= {"type": kind, "is_flag": kind is click.BOOL, "multiple": many, "help": words}
    return click.Option([*flags_of(name), name], metavar=option.metavar, **about)


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
