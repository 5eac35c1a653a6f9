"""The check, on programs written here. test_build.py checks engines that were really built."""

import re
from dataclasses import replace

import pytest

from patch_compile.engine.check import PlanMismatchError, check_programs
from patch_compile.engine.expectation import PlanExpectation
from patch_compile.engine.plan_program import PLUGIN, PlanLayer, PlanProgram, PlanTensor

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


def problems(programs, expected=EXPECTED, **more):
    with pytest.raises(PlanMismatchError) as caught:
        check_programs(programs, expected, **more)
    found = re.fullmatch(r"Its check found: (.+)\.", caught.value.why)
    assert found
    return found[1]


def test_as_planned():
    check_programs((program(Q, K, GEMM),), EXPECTED, targets=["sm86"])
    assert "'k' 0 times" in problems((program(Q, GEMM),), targets=["sm86"])


def test_profiles_may_come_in_parts():
    parts = (program(Q), program(K), program(GEMM, targets=("*",)))
    check_programs(parts, EXPECTED, targets=["sm86"])
    assert "'k' 0 times" in problems((parts[0], parts[2]), targets=["sm86"])


def test_every_profile_runs_every_linear():
    second = program(*(replace(layer, profile=1) for layer in (Q, K)))
    check_programs((program(Q, K), second), EXPECTED, profiles=2)
    assert "profile 1 runs the PatchLinear 'k' 0 times" in problems((program(Q, K),), profiles=2)


def test_no_program():
    assert problems(()).startswith("its program can't be read")


def test_target_left_out():
    assert "it is for sm86, not for sm89" in problems((program(Q, K),), targets=["sm86", "sm89"])


def test_linear_twice():
    assert problems((program(Q, Q, K),)) == "profile 0 runs the PatchLinear 'q' 2 times"


def test_linear_of_another_graph():
    assert "runs a plugin 'v' that the ONNX file does not have" in problems((program(Q, K, plugin("v")),))


def test_linear_swallowed_by_a_product():
    fused = PlanLayer("fully_connected", "k+head", 0, ("x", "w"), ("k", "head"))
    assert "fully_connected 'k+head' took the place of the PatchLinear 'k'" in problems((program(Q, fused),))


def test_weights_that_are_computed():
    computed = plugin("q", inputs=("x", "dense", "x", "meta"))
    assert problems((program(computed, K),)) == "'q' reads packed tensors that are not constants"
    short = plugin("q", inputs=("x", "dense"))
    assert problems((program(short, K),)) == "'q' reads packed tensors that are not constants"


def test_bytes():
    assert problems((program(Q, K),), replace(EXPECTED, patch_linears={"q": 96, "k": 0})) == (
        "'q' holds 88 bytes of packed weights, not 96"
    )


def test_type():
    said = problems((program(Q, K),), replace(EXPECTED, dtype="bfloat16"))
    assert said == "'q' computes in float16, not in bfloat16; 'k' computes in float16, not in bfloat16"


SPLIT = PlanExpectation({}, None, sparse_parts=frozenset({"s0", "s1"}), products=frozenset({"d0", "head"}))


def product(name, profile=0, nodes=None, kind="fully_connected"):
    return PlanLayer(kind, name, profile, ("x", "w"), (name,) if nodes is None else nodes)


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (product("s0+d0", nodes=()), "'s0+d0' merged s0, the 2:4 part of a split, with d0"),
        (
            product("gemm_7", nodes=("s0", "s1", "d0", "head")),
            "merged s0, s1, the 2:4 part of a split, with d0, head",
        ),
    ],
)
def test_a_part_of_a_split_that_was_merged(layer, names):
    apart = program(product("s0", kind="corrltn"), product("s1"), product("d0"), product("head"))
    check_programs((apart,), SPLIT)
    rest = [other for other in apart.layers if other.name not in names]
    assert f"{names}: it is computed densely" in problems((program(layer, *rest),), SPLIT)


def test_parts_of_a_kind_may_merge():
    merged = product("s0+s1", nodes=("s0", "s1")), product("x", nodes=("d0", "head"))
    check_programs((program(*merged),), SPLIT)
    mixed = product("s0+s1", nodes=("s0", "s1", "d0")), product("x", nodes=("head",))
    assert "merged s0, s1, the 2:4 part of a split, with d0" in problems((program(*mixed),), SPLIT)


def test_missing_split_parts_are_refused():
    first, second = (program(*(product(name, profile) for name in ("s0", "s1"))) for profile in (0, 1))
    check_programs((first, second), SPLIT, profiles=2)
    assert problems((first, program(product("s1", 1))), SPLIT, profiles=2) == (
        "profile 1 runs no product 's0', the 2:4 part of a split"
    )


def test_many_problems_are_counted():
    expected = PlanExpectation({f"l{i}": 1 for i in range(9)}, "float16")
    assert problems((program(),), expected).endswith("and 4 more")
