"""A few random mosaics, from packing to kernels. `make torture` runs thousands."""

from dataclasses import replace

import pytest

from masklearn.masks.kinds.table import DENSE, KINDS, TWO_FOUR
from masklearn.quant.table import INT4, INT8, W8A8
from tests.attacks.mosaic import faults
from tests.attacks.random_problem import Mosaic
from tests.plugins.host_kernel import COMPILER

SEEDS = 40
# By the type of the weights: a tensor, a place in it, and a wrong value in place of the right one. Row 0, column 0 of the
# first slab is 32 in fp16 and 8.6e9 in bf16, or has another sign; or the scale of row 0 is another.
WRONG = (
    (None, "dense", (0, 0), lambda value: 0x5000),
    (None, "sparse", (0, 0), lambda value: 0x5000),
    (INT8, "dense", (0, 0), lambda value: value ^ 0x80),
    (INT8, "scales", 0, lambda value: 8 * value),
    (W8A8, "dense", (0, 0), lambda value: value ^ 0x80),
    (W8A8, "scales", 0, lambda value: 8 * value),
    (INT4, "dense", (0, 0), lambda value: value ^ 0x8),
    (INT4, "dense", (0, -32), lambda value: value ^ 1 << 12),
)


@pytest.fixture
def kernels(request):
    return [request.getfixturevalue(name) for name in ("kernel", "integer_kernel", "byte_kernel") if COMPILER]


def test_random_mosaics_are_computed_right(kernels):
    found = [fault for seed in range(SEEDS) for fault in faults(seed, kernels)]
    assert not found, "\n".join(found)


def test_the_seeds_of_the_tests_reach_every_kind():
    drawn = [Mosaic.of(seed) for seed in range(SEEDS)]
    assert {one.fusion for one in drawn} == {"alone", "gated", "stacked"}
    assert {one.epilogue.activation for one in drawn} == {"", "gelu", "gelu_tanh", "silu"}
    assert {str(one.x.dtype) for one in drawn} == {"float16", "bfloat16"}
    assert {one.panel_rows for one in drawn} == {64, 128}
    assert len({one.residual is None for one in drawn}) == len({one.biases is None for one in drawn}) == 2
    shares = [linear.mask.tiles.mean() for one in drawn for linear in one.linears]
    assert 0 in shares and 1 in shares and len({*shares}) > 10
    slabs = [one.packed.kinds for one in drawn]
    assert {kind for kinds in slabs for kind in kinds} == {*KINDS}
    assert sum(kinds == (DENSE, TWO_FOUR) for kinds in slabs) > SEEDS / 3  # the host's kernels take these
    types = [one.weights for one in drawn]
    assert min(types.count(weights) for weights in (None, INT8, W8A8, INT4)) >= 5


def _faults_of(made, monkeypatch, kernels, **changed):
    made.__dict__["packed"] = replace(made.packed, **changed)
    monkeypatch.setattr(Mosaic, "of", lambda seed: made)
    return list(faults(made.seed, kernels))


@pytest.mark.parametrize(("weights", "tensor", "at", "wrong"), WRONG)
def test_a_wrong_value_is_found_by_each_check(kernels, monkeypatch, weights, tensor, at, wrong):
    def takes(one):
        if one.weights is not weights:
            return False
        both = len(one.packed.stored) == 2 and all(one.packed.stored.values())
        return one.packed.dense.size and one.epilogue.overload == "" if weights else both

    made = next(filter(takes, map(Mosaic.of, range(1000))))
    values = getattr(made.packed, tensor).copy()
    values[at] = wrong(values[at])
    found = _faults_of(made, monkeypatch, kernels, **{tensor: values})
    expected = ["does not decode to W∘M", "own check refuses", "ONNX Runtime is off"]
    for said in [*expected, *(["parts is off"] if kernels else [])]:
        assert any(said in fault for fault in found), (said, found)
