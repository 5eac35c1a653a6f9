"""`--ratio`, `--lowering`, `--include` and `--exclude` share one grammar of patterns, tested by one table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from masklearn.choice.goal import Goal
from masklearn.model.coverage import covered_linears
from patch_compile.planning.lowering import asked_lowerings
from patch_compile.recipe import Recipe
from tests.conftest import ModelMaker
from tests.refusals import refused

Q, UP, HEAD = "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj", "lm_head"

# fmt: off
TABLE = [
    ("q_proj", Q, True), ("q_proj", UP, False),
    ("mlp.up_proj", UP, True), ("self_attn.up_proj", None, False),
    ("mlp.*", UP, True), ("mlp.*", Q, False), ("mlp", None, False),
    ("*.mlp.*", UP, True), ("layers.1.*", Q, True), ("layers.0.*", Q, False), ("?_proj", Q, True), ("[kq]_proj", Q, True),
    (Q, Q, True), (Q, UP, False), ("proj", None, False), ("*up_proj", UP, True), ("*up_proj", HEAD, False),
    ("lm_head", HEAD, True), ("*head", HEAD, True), ("lm_*", HEAD, True), ("lm", None, False), ("*.lm_head", None, False),
    ("Q_PROJ", None, False),
    ("re:.*q_proj", Q, True), ("re:.*q_proj", UP, False), ("re:q_proj", None, False), ("re:lm_.*", HEAD, True),
    (r"re:model\.layers\.\d{1,2}\.mlp\..*", UP, True), ("re:.*(?=up_proj).*", UP, True), ("re:lm", None, False),
]
# fmt: on


def by_ratio(path: Path, pattern: str) -> set[str]:
    decided = Goal.of_ratio(f"{pattern}=0.5").by_linear(names_of(path))
    return {name for name, decision in decided.items() if decision}


def by_lowering(path: Path, pattern: str) -> set[str]:
    return {
        name
        for name, asked in asked_lowerings(f"{pattern}=dense", names_of(path)).items()
        if asked == "dense"
    }


def by_include(path: Path, pattern: str) -> set[str]:
    return set(covered_linears(path, include=[pattern]).linears)


def by_exclude(path: Path, pattern: str) -> set[str]:
    skipped = covered_linears(path, exclude=[pattern]).skipped
    return {name for name, reason in skipped.items() if reason == "excluded"}


OPTIONS = {"`ratio`": by_ratio, "--lowering": by_lowering, "`include`": by_include, "`exclude`": by_exclude}


def names_of(path: Path) -> list[str]:
    covered = covered_linears(path)
    return [*covered.linears, *covered.skipped]


@pytest.mark.parametrize("option", OPTIONS)
def test_patterns_match_alike_in_all_options(make_model: ModelMaker, option: str) -> None:
    path, fitting = make_model(), OPTIONS[option]
    for pattern, name, expected in TABLE:
        if name is None:
            assert_refused(fitting, path, option, pattern)
        else:
            assert (name in fitting(path, pattern)) is expected, (pattern, name)


def assert_refused(fitting: Callable[[Path, str], set[str]], path: Path, option: str, pattern: str) -> None:
    with refused():
        fitting(path, pattern)


def test_invalid_expressions_are_refused_alike() -> None:
    settings = {"include": ("re:(",), "exclude": ("re:(",), "ratio": "re:(=0.5", "lowering": "re:(=dense"}
    said = set()
    for name, value in settings.items():
        with refused() as caught:
            Recipe.parse({"model": "m", "ratio": 0.4, name: value})
        said.add(caught.error.why)
    assert len(said) == 1
