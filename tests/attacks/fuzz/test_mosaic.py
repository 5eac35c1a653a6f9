"""A few random mosaics, from packing to kernels. `make torture` runs thousands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR
from masklearn.quant.table import INT4, INT8
from tests.attacks.fuzz import mosaic
from tests.attacks.fuzz.mosaic import faults
from tests.attacks.fuzz.random_problem import Mosaic
from tests.plugins.host_kernel import COMPILER

SEEDS = 40


@pytest.fixture
def kernels(request):
    return [request.getfixturevalue(name) for name in ("kernel", "integer_kernel") if COMPILER]


def test_random_mosaics_are_computed_right(kernels):
    found = [fault for seed in range(SEEDS) for fault in faults(seed, kernels)]
    assert not found, "\n".join(found)


def test_the_seeds_of_the_tests_reach_every_kind():
    drawn = [Mosaic.of(seed) for seed in range(SEEDS)]
    assert {one.fusion for one in drawn} == {"alone", "gated", "stacked"}
    assert {one.epilogue.activation for one in drawn} == {"", "gelu", "gelu_tanh", "silu"}
    assert {str(one.x.dtype) for one in drawn} == {"float16", "bfloat16"}
    assert {one.panel_rows for one in drawn} == {64, 128}
    assert (
        {one.residual is not None for one in drawn}
        == {one.biases is not None for one in drawn}
        == {True, False}
    )
    shares = [linear.mask.tiles.mean() for one in drawn for linear in one.linears]
    assert 0 in shares and 1 in shares and len({*shares}) > 10
    slabs = [one.packed.kinds for one in drawn]
    assert {kind for kinds in slabs for kind in kinds} == {*KINDS}
    assert sum(kinds == (DENSE, TWO_FOUR) for kinds in slabs) > SEEDS / 3  # the host's kernels take these
    assert max(map(len, slabs)) >= 4
    types = [one.weights for one in drawn]
    assert min(types.count(weights) for weights in (None, INT8, INT4)) >= 5


def test_a_seed_gives_the_same_problem_again():
    first, second = Mosaic.of(12), Mosaic.of(12)
    assert str(first) == str(second)
    for one, other in zip(first.linears, second.linears, strict=True):
        assert np.array_equal(one.weight.view(np.uint16), other.weight.view(np.uint16))
        assert np.array_equal(one.kept, other.kept)


@pytest.mark.parametrize("tensor", ["dense", "sparse"])
def test_one_wrong_value_is_found_by_each_check(kernels, monkeypatch, tensor):
    made = next(
        one
        for one in map(Mosaic.of, range(SEEDS))
        if one.weights is None
        and all(len(one.packed.stored) == 2 and count for count in one.packed.stored.values())
    )
    values = getattr(made.packed, tensor).copy()
    values[0, 0] = 0x5000  # 32 in fp16, 8.6e9 in bf16: row 0, column 0 of the first slab
    made.__dict__["packed"] = replace(made.packed, **{tensor: values})
    monkeypatch.setattr(Mosaic, "of", lambda seed: made)
    found = list(faults(made.seed, kernels))
    expected = ["does not decode to W∘M", "own check refuses", "ONNX Runtime is off"]
    expected += (
        ["packer has another dense"] if tensor == "dense" else []
    )  # zeros leave it a choice of kept values
    for said in [*expected, *(["parts is off"] if kernels else [])]:
        assert any(said in fault for fault in found), said
    assert all(fault.endswith(f"replay: python -m tests.attacks.fuzz.mosaic {made.seed}") for fault in found)


@pytest.mark.parametrize("part", ["values", "masks"])
def test_one_wrong_value_of_n_16_is_found_by_each_check(monkeypatch, part):
    made = next(one for one in map(Mosaic.of, range(SEEDS)) if one.packed.others and not one.weights)
    first, *rest = made.packed.others
    array = getattr(first, part).copy()
    # Row 0 of the first panel: its first value, or another position of its first group that keeps one weight more.
    array[0, 0] = 0x5000 if part == "values" else array[0, 0] | ~array[0, 0] & -(~array[0, 0])
    made.__dict__["packed"] = replace(made.packed, others=(replace(first, **{part: array}), *rest))
    monkeypatch.setattr(Mosaic, "of", lambda seed: made)
    found = list(faults(made.seed, []))
    expected = {
        "values": [
            "does not decode to W∘M",
            "own check refuses",
            "has other values of",
            "ONNX Runtime is off",
        ],
        "masks": ["ValueError in format.py:", f"does not keep {first.kind.kept} weights"],
    }
    for said in expected[part]:
        assert any(said in fault for fault in found), (said, found)
    assert all(fault.endswith(f"replay: python -m tests.attacks.fuzz.mosaic {made.seed}") for fault in found)


@pytest.mark.parametrize("weights", [INT8, INT4], ids=str)
def test_one_wrong_integer_or_scale_is_found_by_each_check(kernels, monkeypatch, weights):
    made = next(
        one
        for one in map(Mosaic.of, range(1000))
        if one.weights is weights and one.packed.dense.size and one.epilogue.overload == ""
    )
    # The sign of row 0, column 0 of the first slab, and the scale of row 0.
    changes = [("dense", (0, 0), 0x80), ("scales", 0, None)]
    if weights is INT4:
        changes = [("dense", (0, 0), 0x8), ("dense", (0, -32), 1 << 12)]
    for name, at, flip in changes:
        changed = getattr(made.packed, name).copy()
        changed[at] = changed[at] ^ flip if flip else 8 * changed[at]
        wrong = replace(made)
        wrong.__dict__["packed"] = replace(made.packed, **{name: changed})
        monkeypatch.setattr(Mosaic, "of", lambda seed, wrong=wrong: wrong)
        found = list(faults(made.seed, kernels))
        expected = ["does not decode to W∘M", "own check refuses", "ONNX Runtime is off"]
        for said in [*expected, *(["parts is off"] if kernels else [])]:
            assert any(said in fault for fault in found), (said, name, at, found)


def test_the_command_replays_a_seed(capsys, library_cache):
    assert mosaic.main(["2"], library_cache) == 0
    assert capsys.readouterr().out == f"2: {Mosaic.of(2)}\n"
