"""The check, on programs written here. test_build.py checks engines that were really built."""

from dataclasses import replace

import pytest

from patch_compile.engine.check import PlanMismatchError, check_programs
from patch_compile.engine.expectation import PlanExpectation
from patch_compile.engine.plan_program import PLUGIN, PlanLayer, PlanProgram, PlanTensor
from tests.refusals import refused

EXPECTED = PlanExpectation({"q": 88, "k": 0}, "float16")
INPUTS = ("x", "dense", "sparse", "meta")
TENSORS = {
    "x": PlanTensor("float16", (None, 8), None),
    "dense": PlanTensor("float16", (2, 8), 32),
    "sparse": PlanTensor("float16", (2, 8), 32),
    "meta": PlanTensor("int32", (6,), 24),
    "none": PlanTensor("float16", (0, 8), None),
}


def plugin(name, profile=0, inputs=INPUTS):
    return PlanLayer(PLUGIN, name, profile, inputs, (name,))


def program(*layers, targets=("sm86",)):
    return PlanProgram(targets, layers, TENSORS)


Q, K = plugin("q"), plugin("k", inputs=("x", "none", "none", "none"))
GEMM = PlanLayer("fully_connected", "head", 0, ("x", "w"), ("head",))


def refuse(programs, expected=EXPECTED, **more):
    with refused(PlanMismatchError):
        check_programs(programs, expected, **more)


def test_as_planned():
    check_programs((program(Q, K, GEMM),), EXPECTED, targets=["sm86"])
    refuse((program(Q, GEMM),), targets=["sm86"])


def test_profiles_may_come_in_parts():
    parts = (program(Q), program(K), program(GEMM, targets=("*",)))
    check_programs(parts, EXPECTED, targets=["sm86"])
    refuse((parts[0], parts[2]), targets=["sm86"])


def test_every_profile_runs_every_linear():
    second = program(*(replace(layer, profile=1) for layer in (Q, K)))
    check_programs((program(Q, K), second), EXPECTED, profiles=2)
    refuse((program(Q, K),), profiles=2)


BROKEN = {
    "no program": ((), EXPECTED),
    "a linear twice": ((program(Q, Q, K),), EXPECTED),
    "a linear of another graph": ((program(Q, K, plugin("v")),), EXPECTED),
    "a linear swallowed by a product": (
        (program(Q, PlanLayer("fully_connected", "k+head", 0, ("x", "w"), ("k", "head"))),),
        EXPECTED,
    ),
    "weights that are computed": ((program(plugin("q", inputs=("x", "dense", "x", "meta")), K),), EXPECTED),
    "too few weights": ((program(plugin("q", inputs=("x", "dense")), K),), EXPECTED),
    "other bytes": ((program(Q, K),), replace(EXPECTED, patch_linears={"q": 96, "k": 0})),
    "another type": ((program(Q, K),), replace(EXPECTED, dtype="bfloat16")),
    "many problems": ((program(),), PlanExpectation({f"l{i}": 1 for i in range(9)}, "float16")),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_differences_from_the_plan_are_refused(broken):
    refuse(*BROKEN[broken])


def test_target_left_out():
    refuse((program(Q, K),), targets=["sm86", "sm89"])


SPLIT = PlanExpectation({}, None, sparse_parts=frozenset({"s0", "s1"}), products=frozenset({"d0", "head"}))


def product(name, profile=0, nodes=None, kind="fully_connected"):
    return PlanLayer(kind, name, profile, ("x", "w"), (name,) if nodes is None else nodes)


@pytest.mark.parametrize(
    ("layer", "merged"),
    [
        (product("s0+d0", nodes=()), ("s0", "d0")),
        (product("gemm_7", nodes=("s0", "s1", "d0", "head")), ("s0", "s1", "d0", "head")),
    ],
    ids=("by its name", "by its nodes"),
)
def test_a_part_of_a_split_that_was_merged(layer, merged):
    apart = program(product("s0", kind="corrltn"), product("s1"), product("d0"), product("head"))
    check_programs((apart,), SPLIT)
    rest = [other for other in apart.layers if other.name not in merged]
    refuse((program(layer, *rest),), SPLIT)


def test_parts_of_a_kind_may_merge():
    merged = product("s0+s1", nodes=("s0", "s1")), product("x", nodes=("d0", "head"))
    check_programs((program(*merged),), SPLIT)
    mixed = product("s0+s1", nodes=("s0", "s1", "d0")), product("x", nodes=("head",))
    refuse((program(*mixed),), SPLIT)


def test_missing_split_parts_are_refused():
    first, second = (program(*(product(name, profile) for name in ("s0", "s1"))) for profile in (0, 1))
    check_programs((first, second), SPLIT, profiles=2)
    refuse((first, program(product("s1", 1))), SPLIT, profiles=2)
