"""The dense path of weights of integers: unpacked to the values of OUT/model, of w8a8 to bytes; products by cuBLASLt."""

import ctypes

import numpy as np
import pytest

from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4, INT8
from tests.oracles.element_packing import KEPT, W8A8, in_turns
from tests.oracles.integer_packing import pack_gated_integers, pack_integers
from tests.plugins.dense_path_cases import FAILS, MARKS, large, weight_of
from tests.plugins.dense_plugin import A100, EAGER, Linear
from tests.plugins.mosaic_cases import DTYPES, make_case

pytestmark = MARKS

TYPES = {1: INT8, 3: INT4}
types = pytest.mark.parametrize("integers", TYPES, ids=["int8", "int4"])


def values_of(one, dtype):
    """As a checkpoint holds them; of w8a8 the integers."""
    return one.integers if one.type == W8A8 else Grid(TYPES[one.type], one.scales).values(one.integers, dtype)


def unpacked(plugin, packed, dtype, *panels):
    weight = plugin.unpack(packed, *panels, scalar=DTYPES.index(dtype))
    return weight if packed.weights == W8A8 else weight.view(dtype)


@pytest.mark.parametrize(
    ("integers", "panel_rows", "kind"),
    [
        *((integers, 64, kind) for integers in TYPES for kind in range(len(KEPT))),
        *((W8A8, panel_rows, kind) for panel_rows in (64, 128) for kind in range(3)),
    ],
)
def test_unpacking_gives_the_values(load, driver, integers, panel_rows, kind):
    """A kind with some dense slabs, bit for bit; a single panel, too."""
    plugin, rng, dtype = load(driver), np.random.default_rng(kind), DTYPES[kind % 2]
    codes = np.where(rng.random((3, 5)) < 0.7, kind, 0)
    one = weight_of(integers, codes, rng, 320, panel_rows)
    packed, expected = pack_integers(one, codes, dtype, panel_rows), values_of(one, dtype)
    for first, panels in ((0, 3), (2, 1)):
        rows = expected[first * panel_rows :][: panels * panel_rows]
        np.testing.assert_array_equal(unpacked(plugin, packed, dtype, first, panels), rows)


@pytest.mark.parametrize(("integers", "panel_rows"), [(1, 64), (3, 64), (W8A8, 128)])
def test_unpacking_leaves_gate_and_up_in_turns(load, driver, integers, panel_rows):
    plugin, rng, dtype = load(driver), np.random.default_rng(integers), DTYPES[0]
    codes = rng.integers(0, 3 if integers == W8A8 else len(KEPT), (4, 4))
    sides = [weight_of(integers, codes, rng, 256, panel_rows // 2) for _ in range(2)]
    packed = pack_gated_integers(sides, codes, dtype, panel_rows)
    expected = in_turns(np.stack([values_of(side, dtype) for side in sides]))
    np.testing.assert_array_equal(unpacked(plugin, packed, dtype), expected)


@types
def test_many_tokens_take_the_dense_path(load, driver, integers):
    plugin = load(driver)
    plugin.device(A100)
    for share in (0.0, 0.8):
        for tokens, expected in ((1, [1]), (16, [1]), (4096, [1, 1000])):
            linear = large(tokens, rows=64, share=share, weights=2 + integers)
            made = plugin.configured(linear)
            assert plugin.tactics(made) == expected, (share, tokens)
            plugin.lib.patch_plugin_delete(made)


@types
def test_the_kernels_of_the_type_are_launched(load, driver, kernel, integers):
    plugin = load(driver)
    plugin.device(A100)
    names = list(kernel.configs())
    for gated in (False, True):
        case = make_case(3, (136, 320), 64, kinds=2, integers=integers, gated=gated, seed=1)
        linear = Linear.of(case)
        made = plugin.configured(linear)
        context = ctypes.c_void_p(plugin.lib.patch_plugin_clone(made))
        assert plugin.shapes(context, linear) == 0
        assert plugin.enqueue(context, case, plugin.workspace(made, linear))[0] == 0
        chosen = names[plugin.lib.patch_plugin_scheduled()]
        assert chosen == f"{TYPES[integers]}-decode-64"
        assert str(TYPES[integers]) in plugin.lib.patch_plugin_timing_id(made).decode().split()


def test_types_of_inputs_are_checked(load, driver):
    """Tensors of 16-bit weights with the attribute of integers, and the reverse; a message names the fault."""
    plugin = load(driver)
    plugin.device(EAGER)
    cases = {
        integers: make_case(3, (130, 320), 64, integers=integers, seed=1) for integers in (0, 1, W8A8, 3)
    }
    for own, other, said in [
        (1, 0, "must be their scales, FLOAT numbers"),
        (3, 0, "the tensors of slabs of integers INT32"),
        (0, 3, "all fp16 or all bf16"),
        (W8A8, 0, "the input after the slabs of w8a8 weights must be their scales, FLOAT numbers"),
        (0, W8A8, "takes X, dense, sparse, meta, optionally bias"),
        (3, 1, "takes X, dense, sparse, meta, optionally bias"),
    ]:
        made = plugin.new(Linear.of(cases[own]))
        assert plugin.configure(made, Linear.of(cases[other])) == FAILS
        assert any(said in line for line in plugin.messages()), (own, other)
        plugin.lib.patch_plugin_delete(made)


def test_16_bit_weights_have_xs_type(load, driver):
    plugin = load(driver)
    case = make_case(3, (130, 320), 64, seed=1)
    linear = Linear.of(case)
    for named, dtype, good in [(0, 0, True), (1, 0, True), (2, 0, False), (2, 1, True), (1, 1, False)]:
        linear.weights, linear.scalar = named, dtype
        made = plugin.new(linear)
        assert (plugin.configure(made, linear) == 0) == good
        said = plugin.messages()
        assert good or any("weights of 16 bits must have the type of X" in line for line in said)
        plugin.lib.patch_plugin_delete(made)


def test_type_names_equal_the_tables():
    from masklearn.quant.table import WEIGHT_TYPES
    from tests.plugins.host_kernel import PLUGINS

    row = (PLUGINS / "kernels/weights.h").read_text().split("kWeightTypeNames[] = {")[1].split("}")[0]
    assert [name.strip(' "') for name in row.split(",")] == ["", *WEIGHT_TYPES]
