import signal

import pytest

from masklearn.masks.name_globs import (
    depth_of,
    kind_of,
    matches,
    parse_lists,
    parse_pattern,
    short_kinds,
)
from tests.refusals import refused


@pytest.mark.parametrize(
    ("name", "kind", "depth"),
    [
        ("model.layers.12.mlp.up_proj", "model.layers.*.mlp.up_proj", 12),
        ("model.layers.3.mlp.experts.7.w1", "model.layers.*.mlp.experts.*.w1", 3),
        ("model.layers.3.mlp.experts.7", "model.layers.*.mlp.experts.*", 3),
        ("lm_head", "lm_head", None),
        ("h.0.1.c", "h.*.*.c", 0),
        ("model.layer2.x", "model.layer2.x", None),
    ],
)
def test_kind_and_depth(name: str, kind: str, depth: int | None) -> None:
    assert (kind_of(name), depth_of(name)) == (kind, depth)


def test_short_kinds_are_the_shortest_ends_that_differ() -> None:
    kinds = [
        "l.*.attention.self.query",
        "l.*.attention.output.dense",
        "l.*.output.dense",
        "l.*.intermediate.dense",
    ]
    assert list(short_kinds(kinds).values()) == [
        "query",
        "attention.output.dense",
        "*.output.dense",
        "intermediate.dense",
    ]
    assert short_kinds(["dense", "a.dense"]) == {"dense": "dense", "a.dense": "a.dense"}


@pytest.mark.parametrize("expression", ["(.*)*x", "(.|..)+$y"])
def test_a_pattern_that_takes_for_ever_is_stopped(expression: str) -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    with refused():
        matches("model.layers.0.self_attn.q_proj" * 2, f"re:{expression}")
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
    assert signal.getsignal(signal.SIGVTALRM) is before


@pytest.mark.parametrize("expression", ["(" * 5000 + ")" * 5000, "a{99999999999999}"])
def test_expressions_beyond_re_limits_are_refused(expression: str) -> None:
    with refused(ValueError):
        parse_pattern(f"re:{expression}")


def test_commas_are_parsed_in_linear_time() -> None:
    expression = "re:" + "," * 300_000
    assert parse_lists(f"a=1,{expression}=0.3", str, "ratio") == [("a", ("1",)), (expression, ("0.3",))]
