"""Every option of every command can be set in the environment."""

import click
import pytest

from patch_compile.cli.app import cli


def test_every_option_has_its_own_variable() -> None:
    options = (option for command in cli.commands.values() for option in command.params)
    variables = [option.envvar for option in options if isinstance(option, click.Option)]
    assert None not in variables and len({*map(str, variables)}) == len(variables) > 100


@pytest.mark.parametrize(
    ("command", "words", "variable", "value", "setting", "parsed"),
    [
        ("build", "model", "BUILD_WINDOWS", "3", "windows", 3),
        ("build", "model", "BUILD_EVAL", "a.txt", "eval_text", "a.txt"),
        ("build", "model", "BUILD_PERMUTE", "1", "permute", True),
        ("build", "model", "BUILD_INCLUDE", "q_proj k_proj", "include", ("q_proj", "k_proj")),
        (
            "run",
            "out words",
            "RUN_STOP",
            "Once upon a time\nOne, two",
            "stop",
            ("Once upon a time", "One, two"),
        ),
        ("import-mask", "source --model m -o o", "IMPORT_MASK_FORMAT", "maskllm", "format", "maskllm"),
        ("debug reduce", "out -o o", "DEBUG_REDUCE_LINEAR", "fc", "linear", "fc"),
    ],
)
def test_a_variable_is_as_good_as_its_option(
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: str,
    variable: str,
    value: str,
    setting: str,
    parsed: object,
) -> None:
    monkeypatch.setenv(f"PATCH_COMPILE_{variable}", value)
    assert cli.commands[command].make_context(command, words.split()).params[setting] == parsed
