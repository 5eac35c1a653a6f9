"""Options, parameters and settings are the same: name, default and type, for every command."""

import inspect
import os
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import click
import pytest

from masklearn.learning import LearnRecipe
from patch_compile.api.bench import bench
from patch_compile.api.build import build
from patch_compile.api.build_plugin import build_plugin
from patch_compile.api.compare import compare
from patch_compile.api.compile import compile
from patch_compile.api.doctor import doctor
from patch_compile.api.export import export
from patch_compile.api.import_mask import import_mask
from patch_compile.api.inspect import inspect as inspect_function
from patch_compile.api.learn import learn
from patch_compile.api.plan import plan
from patch_compile.api.run import run
from patch_compile.api.verify import verify
from patch_compile.cli.app import cli
from patch_compile.pipeline.import_masks import ImportRequest
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.timing.request import BenchRequest
from patch_compile.verification.request import VerifyRequest

FUNCTIONS = {
    "bench": bench, "build": build, "compare": compare, "compile": compile, "doctor": doctor, "export": export,
    "import-mask": import_mask, "inspect": inspect_function, "learn": learn, "plan": plan, "plugin": build_plugin,
    "run": run, "verify": verify,
}  # fmt: skip
EMPTY = inspect.Parameter.empty
# Options that only the command line has, and parameters that only Python can give.
PRINTING = {"as_json", "every", "list_passes", "verbose"}
CALLBACKS = {"run": {"say", "show"}}
# Per function, the settings that check it and its parameters that are no settings.
BUILD_ALONE = {"service", "edgellm_python", "recipe", "force", "resume"}
SETTINGS = [
    (build, Recipe, BUILD_ALONE),
    (learn, Recipe, {"baselines", "force", "resume"}),
    (plan, Recipe, set()),
    (compile, GraphRecipe, {"dump_passes", "force", "resume"}),
    (verify, VerifyRequest, {"path"}),
    (bench, BenchRequest, {"path", "force"}),
    (import_mask, ImportRequest, {"force"}),
]
VALID = {
    Recipe: {"model": "m", "ratio": 0.4},
    GraphRecipe: {"model": "m", "ratio": 0.4, "graph": "g"},
    VerifyRequest: {},
    BenchRequest: {},
    ImportRequest: {"source": "s", "out": "o", "model": "m"},
}


def parameters(function):
    return inspect.signature(function).parameters


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_a_command_has_the_parameters_of_its_function(name):
    options = {parameter.name for parameter in cli.commands[name].params}
    assert options - PRINTING == set(parameters(FUNCTIONS[name])) - CALLBACKS.get(name, set())


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_a_command_asks_for_what_its_function_needs_and_says_its_defaults(name):
    declared = parameters(FUNCTIONS[name])
    for option in cli.commands[name].params:
        if option.name in PRINTING or (isinstance(option, click.Option) and option.flag_value == "none"):
            continue
        default = declared[option.name].default
        assert option.required == (default is EMPTY), option.name
        if (
            isinstance(option, click.Option)
            and not isinstance(default, bool)
            and default not in (None, (), EMPTY)
        ):
            said = re.search(r"\[(.*)\]$", option.help or "")
            assert said, (name, option.name)
            shown = "x" if option.name == "tile" else ","
            spelled = shown.join(map(str, default)) if isinstance(default, tuple) else default
            assert said[1] == (f"{spelled:g}" if isinstance(spelled, float) else str(spelled)), option.name


def test_every_setting_of_a_build_is_a_parameter():
    assert set(Recipe.model_fields) == set(parameters(build)) - BUILD_ALONE
    assert set(VerifyRequest.model_fields) == set(parameters(verify)) - {"path"}
    assert set(BenchRequest.model_fields) == set(parameters(bench)) - {"path", "force"}
    assert set(ImportRequest.model_fields) == set(parameters(import_mask)) - {"force"}
    evaluation = {"eval_text", "eval_windows", "eval_length"}
    gain = {"speedup", "budget_ms", "target", "batch_size", "prompt_tokens", "generated_tokens"}
    assert set(parameters(learn)) - {
        "model",
        "out",
        "baselines",
        "force",
        "resume",
    } - evaluation - gain == set(LearnRecipe.model_fields)


@pytest.mark.parametrize(("function", "settings", "other"), SETTINGS)
def test_a_parameter_has_the_default_of_its_setting(function, settings, other):
    needed = VALID[settings]
    for name, parameter in parameters(function).items():
        if name in other or name in needed or parameter.default is EMPTY:
            continue
        given = settings.parse(needed | ({} if parameter.default is None else {name: parameter.default}))
        assert getattr(given, name) == settings.model_fields[name].get_default(call_default_factory=True), (
            name
        )


@pytest.mark.parametrize(("function", "settings", "other"), SETTINGS)
def test_a_parameter_has_the_type_of_its_setting(function, settings, other):
    hints = get_type_hints(settings)
    for name, parameter in parameters(function).items():
        if name not in other:
            asked, checked = plain(parameter.annotation), plain(hints[name])
            if settings.model_fields[name].is_required() or parameter.default is EMPTY:
                checked, asked = checked - {"None"}, asked - {"None"}
            assert asked == checked, name


def test_the_same_parameter_is_declared_alike_everywhere():
    """learn, plan and compile share the settings of build."""
    theirs = parameters(build)
    for function in (learn, plan, compile):
        for name, parameter in parameters(function).items():
            if name in theirs and parameter.default is not inspect.Parameter.empty:
                assert (parameter.default, parameter.annotation) == (
                    theirs[name].default,
                    theirs[name].annotation,
                )


def plain(annotation):
    """A type as the kinds of values that it takes; text in place of a tuple, and a name in place of an enum, count alike."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    if get_origin(annotation) in (UnionType, Union):
        kinds = set().union(*map(plain, get_args(annotation)))
        if "path" in kinds or any(kind.startswith("many") for kind in kinds):
            kinds -= {"text"}
        return kinds
    if get_origin(annotation) is Literal:
        return {"text"} if set(get_args(annotation)) else set()
    if get_origin(annotation) is os.PathLike or annotation is Path:
        return {"path"}
    if get_origin(annotation) in (Sequence, tuple):
        return {"many " + " ".join(sorted(plain(get_args(annotation)[0])))}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"text"}
    return {{int: "int", float: "float", bool: "bool", str: "text", NoneType: "None"}.get(annotation, "text")}


def test_literals_are_the_names_that_the_setting_takes():
    for function, settings, other in SETTINGS:
        hints = get_type_hints(settings)
        for name, parameter in parameters(function).items():
            if name not in other and (asked := names(parameter.annotation)):
                assert asked == names(hints[name]), name


def names(annotation):
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return set(annotation)
    return set().union(*map(names, get_args(annotation))) if get_args(annotation) else set()
