"""Every option of every command can be set in the environment."""

import re
from collections.abc import Iterator

import click
import pytest

from patch_compile.cli.app import cli

OPTIONS = [
    (name, option)
    for name, command in sorted(cli.commands.items())
    for option in command.params
    if isinstance(option, click.Option)
]


def flag_of(option: click.Option) -> str:
    return max(option.opts, key=len)


def named(name: str, option: click.Option) -> str:
    return re.sub("[- ]", "_", f"PATCH_COMPILE_{name}_{flag_of(option)[2:]}").upper()


def value_of(option: click.Option) -> str:
    """A value that the option takes and that is not its default."""
    if isinstance(option.type, click.Choice):
        return str(option.type.choices[-1])
    return "3"


def needed(name: str, but: click.Option) -> Iterator[str]:
    """Arguments and options that a command can't do without."""
    for parameter in cli.commands[name].params:
        if parameter.required and parameter.name != but.name:
            yield from ([flag_of(parameter)] if isinstance(parameter, click.Option) else [])
            yield "given"


def parsed(name: str, arguments: list[str]) -> dict[str, object]:
    try:
        return cli.commands[name].make_context(name, arguments).params
    except click.exceptions.Exit:  # the option prints a list and ends the command
        return {"ended": True}


@pytest.mark.parametrize(
    ("name", "option"), OPTIONS, ids=[f"{name} {flag_of(option)}" for name, option in OPTIONS]
)
def test_a_variable_is_as_good_as_its_option(
    name: str, option: click.Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = list(needed(name, option))
    value = [] if option.is_flag else [value_of(option)]
    written = parsed(name, [*others, flag_of(option), *value])
    monkeypatch.setenv(named(name, option), value[0] if value else "1")
    assert parsed(name, others) == written
    assert "ended" in written or written[str(option.name)] not in (None, (), False)


def test_repeated_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCH_COMPILE_BUILD_INCLUDE", "q_proj k_proj")
    assert parsed("build", ["model"])["include"] == ("q_proj", "k_proj")
    monkeypatch.setenv("PATCH_COMPILE_RUN_STOP", "Once upon a time\nOne, two")
    assert parsed("run", ["out", "words"])["stop"] == ("Once upon a time", "One, two")
