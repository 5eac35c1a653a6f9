"""Hopper's dense path on a CPU: its kernels run on fibers, its host code with a cuBLASLt that computes on the CPU."""

import ctypes

import numpy as np
import pytest

from tests.oracles.element_packing import KEPT, Packed, pack_gated, pack_slabs, prune
from tests.plugins.dense_path_cases import MARKS, plain_rows, random_bits, random_pair, run
from tests.plugins.dense_plugin import DENSE_PATH, Linear, problem_of
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, make_case, without_panels

pytestmark = MARKS


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("panel_rows", [64, 128])
def test_unpacking_gives_back_every_bit(load, driver, panel_rows, share):
    """Shapes are ragged, of one panel and several, with fewer slabs than a block writes and more."""
    plugin = load(driver)
    for seed, (rows, columns) in enumerate([(1, 4), (64, 64), (130, 252), (200, 260), (300, 644), (7, 1280)]):
        rng = np.random.default_rng(seed)
        sparse = rng.random((-(-rows // panel_rows), -(-columns // 64))) < share
        bits = random_bits(rng, (rows, columns), sparse, panel_rows)
        expected = plain_rows(bits, sparse, panel_rows)
        packed = pack_slabs(bits, sparse, panel_rows)
        assert (plugin.unpack(packed) == expected).all()
        for panel in range(len(sparse)):  # each panel as one piece
            got = plugin.unpack(packed, panel, 1)
            assert (got == expected[panel * panel_rows : (panel + 1) * panel_rows]).all()


@pytest.mark.parametrize("panel_rows", [64, 128])
def test_unpacking_leaves_gate_and_up_in_turns(load, driver, panel_rows):
    plugin = load(driver)
    for rows, columns in [(64, 64), (200, 260), (136, 704)]:
        rng = np.random.default_rng(rows)
        sparse = rng.random((-(-2 * rows // panel_rows), -(-columns // 64))) < 0.5
        bits, in_turns = random_pair(rng, (rows, columns), sparse, panel_rows)
        expected = plain_rows(in_turns, sparse, panel_rows)
        packed = pack_gated(bits, sparse, panel_rows)
        assert (plugin.unpack(packed) == expected).all()
        for first in range(len(sparse)):
            got = plugin.unpack(packed, first, 1)
            assert (got == expected[first * panel_rows :][:panel_rows]).all()


@pytest.mark.parametrize("kind", range(2, len(KEPT)))
def test_unpacking_slabs_of_sixteen(load, driver, kind):
    """Only one kind and dense slabs, in an index that names these kinds; values are the packer's, bit for bit."""
    plugin, rng = load(driver), np.random.default_rng(kind)
    codes = np.where(rng.random((3, 5)) < 0.6, kind, 0)
    weight = rng.standard_normal((192, 320), np.float32)
    inside = np.repeat(np.repeat(codes, 64, 0), 64, 1) > 0
    bits = np.where(inside, prune(weight, kind, rng), weight).astype(np.float16).view(np.uint16)
    packed = pack_slabs(bits, codes, 64)
    assert packed.kinds == (0, 1, kind)
    assert (plugin.unpack(packed) == bits).all() and (plugin.unpack(packed, 2, 1) == bits[128:]).all()


@pytest.mark.parametrize("integers", [0, 1, 3], ids=["16-bit", "int8", "int4"])
@pytest.mark.parametrize("gated", [False, True])
def test_a_linear_of_all_kinds(load, driver, gated, integers):
    plugin = load(driver)
    for n, (tokens, shape) in enumerate([(5, (200, 320)), (70, (64, 640))]):
        how = {"gated": gated, "activation": "silu" if gated else "", "rounded": gated, "residual": n > 0}
        case = make_case(
            tokens, shape, 64, share=0.8, kinds=len(KEPT), integers=integers, unpacked=integers > 0, dtype=DTYPES[n],
            seed=tokens, **how,
        )  # fmt: skip
        code, y = run(plugin, case)
        assert code == 0 and plugin.launched()[1] > 0 and case.worst(y) <= 1


def test_slabs_that_were_dropped_become_zeros(load, driver):
    """Dropped are whole panels, the first and the last among them, and single slabs of a panel."""
    plugin = load(driver)
    keep = np.repeat([False, True, False, True, False], 64)
    emptied = without_panels(make_case(1, (5 * 64, 388), 64, seed=9), keep).packed
    got = plugin.unpack(emptied)
    assert (got[~keep] == 0).all() and (got[keep] != 0).any(1).all()

    case = make_case(1, (64, 640), 64, share=0.5, seed=2).packed
    whole, dense, sparse = plugin.unpack(case), len(case.dense), len(case.sparse)
    columns = case.index[4:]
    index = np.array([0, dense - 1, 0, sparse - 1, *columns[1:dense], *columns[dense + 1 :]], np.int32)
    fewer = Packed(case.shape, 64, case.dense[1:], case.sparse[1:], case.meta[1:], index)
    for gone in (columns[0], columns[dense]):
        whole[:, gone * 64 : gone * 64 + 64] = 0
    assert (plugin.unpack(fewer) == whole).all()


LINEARS = {
    "plain": {"bias": False},
    "bias": {},
    "residual": {"residual": True},
    "no bias, residual": {"bias": False, "residual": True},
    **{name: {"activation": name} for name in ACTIVATIONS if name},
    "gelu, residual, no bias": {"activation": "gelu", "residual": True, "bias": False},
    "gated": {"gated": True, "activation": "silu", "bias": False},
    "gated, all": {"gated": True, "activation": "gelu_tanh", "residual": True},
    "gate without an activation": {"gated": True},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LINEARS)
def test_every_linear_by_the_dense_path(load, driver, small_driver, name, dtype):
    """One piece and several, ragged and not. A linear without gate or activation is within one rounding."""
    how = LINEARS[name]
    plain = not how.get("gated") and not how.get("activation")
    for i, (rows, columns, panel_rows, used) in enumerate(
        [(264, 328, 64, small_driver), (256, 192, 128, driver), (392, 264, 128, small_driver)]
    ):
        case = make_case(200, (rows, columns), panel_rows, dtype=dtype, seed=i, rounded=not plain, **how)
        plugin = load(used)
        code, y = run(plugin, case)
        assert code == 0 and case.worst(y) <= 1
        kernels, unpacked, activated = plugin.launched()
        pieces = plugin.pieces(problem_of(case), case.activation)[1]
        assert (kernels, unpacked, activated) == (0, pieces, 0 if plain else pieces)
        assert (pieces > 1) == (used is small_driver) and plugin.messages() == []


def test_results_repeat_on_the_given_stream(load, small_driver, cublaslt):
    cublaslt.stand_in_stream.restype = ctypes.c_void_p
    case = make_case(150, (264, 328), 64, seed=1)
    first, second = (run(load(small_driver), case, stream=stream)[1] for stream in (0x1230, 0x4560))
    assert (first == second).all() and cublaslt.stand_in_stream() == 0x4560


def test_enqueue_makes_nothing_and_nothing_is_left(load, small_driver, cublaslt):
    """New shapes create every descriptor anew; a launch only sets the bias and multiplies."""
    names = (
        "create",
        "operation",
        "layout",
        "preference",
        "preference_set",
        "heuristic",
        "operation_set",
        "matmul",
    )
    calls = lambda: {name: cublaslt.stand_in_calls(name.encode()) for name in names}  # noqa: E731
    plugin, case = load(small_driver), make_case(150, (264, 328), 64)
    linear = Linear.of(case)
    context = plugin.configured(linear)
    assert plugin.set_tactic(context, DENSE_PATH) == 0 and plugin.shapes(context, linear) == 0
    alive, before = cublaslt.stand_in_alive(), calls()
    workspace = plugin.workspace(context, linear)
    for _ in range(2):
        assert plugin.enqueue(context, case, workspace)[0] == 0
    assert plugin.shapes(context, linear) == 0  # set again, unchanged
    pieces = plugin.pieces(problem_of(case))[1]
    spent = {name: count - before[name] for name, count in calls().items()}
    assert spent == {name: 2 * pieces if name in ("operation_set", "matmul") else 0 for name in names}

    other = make_case(160, (264, 328), 64)
    assert plugin.shapes(context, Linear.of(other)) == 0
    code, y = plugin.enqueue(context, other, workspace)
    assert code == 0 and other.worst(y) <= 1 and cublaslt.stand_in_alive() == alive
    plugin.lib.patch_plugin_delete(context)
    assert cublaslt.stand_in_alive() < alive
    assert calls()["create"] == before["create"]  # one handle for the process and device
