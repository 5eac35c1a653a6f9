"""The plugin refuses an index that lies when it is created: no kernel ever follows such an index."""

import ctypes

import numpy as np
import pytest

from patch_compile.packing.index import index_fault
from tests.oracles.integer_packing import W8A8
from tests.plugins.dense_path_cases import MARKS
from tests.plugins.dense_plugin import Linear
from tests.plugins.lying_index import LIES, lying
from tests.plugins.mosaic_cases import make_case

pytestmark = MARKS


def refused(plugin, linear, index):
    """The reason for which no plugin is created; empty if one is."""
    made = plugin.new(linear, np.ascontiguousarray(index))
    if made.value is not None:
        plugin.lib.patch_plugin_delete(made)
        assert plugin.messages() == []
        return ""
    (message,) = plugin.messages()
    return message.removeprefix("1 ")


@pytest.mark.parametrize("weights", [0, W8A8], ids=["16-bit", "w8a8"])
@pytest.mark.parametrize(("panel_rows", "gated"), [(64, False), (64, True), (128, False), (128, True)])
def test_the_plugin_refuses_what_the_compiler_refuses(load, driver, panel_rows, gated, weights):
    """About every kind of lie, about all slabs, or slabs of one kind: dense, 2:4, or 6:8 of w8a8."""
    plugin, kinds = load(driver), 3 if weights else 2
    case = make_case(1, (304, 324), panel_rows, gated=gated, integers=weights, kinds=kinds)
    packed, linear, names = case.packed, Linear.of(case), ("dense", "2:4", "6:8")
    assert packed.kinds == tuple(range(kinds))
    grid = packed.panels, 6
    assert refused(plugin, linear, packed.index) == ""
    lies = 0
    for lie in LIES:
        for seed in range(2 + 2 * kinds):
            index = lying(packed, lie, seed).index
            fault = index_fault(index, grid, {names[kind]: packed.counts[kind] for kind in packed.kinds})
            said = refused(plugin, linear, index)
            assert bool(said) == bool(fault), (lie, seed, said, fault)
            if "column" in fault or "begin at" in fault:
                assert said == fault, (lie, seed)
            lies += bool(fault)
    assert lies > 100


def test_an_index_of_another_size_is_refused(load, driver):
    plugin, case = load(driver), make_case(1, (300, 324), 64)
    linear, index = Linear.of(case), case.packed.index
    for wrong in (index[:-1], np.append(index, 0).astype(np.int32), index[:0]):
        assert refused(plugin, linear, wrong) == (
            f"the index has {len(wrong)} numbers; 5 panels of 6 slabs of the kinds dense,2:4 need 42"
        )


def test_tensors_of_other_numbers_of_slabs_are_refused(load, driver):
    plugin, case = load(driver), make_case(1, (300, 324), 64, share=0.5)
    linear, index = Linear.of(case), case.packed.index
    for dense, sparse in ((1, 0), (0, 1), (1, -1), (-1, 0)):
        other = Linear.from_buffer_copy(linear)
        other.slabs.of[0] += dense
        other.slabs.of[1] += sparse
        made = plugin.new(linear, index)
        assert plugin.shapes(made, other) != 0 and plugin.configure(made, other) != 0
        for message in plugin.messages():
            assert (
                f"does not fit the index of {linear.slabs.of[0]} dense, {linear.slabs.of[1]} 2:4 slabs"
                in message
            )


def test_plugin_copies_share_their_index(load, driver):
    plugin, case = load(driver), make_case(7, (300, 324), 64)
    linear = Linear.of(case)
    made = plugin.new(linear)
    copy = ctypes.c_void_p(plugin.lib.patch_plugin_clone(made))
    plugin.lib.patch_plugin_delete(made)
    found = (ctypes.c_int32 * len(case.packed.index))()
    assert plugin.lib.patch_plugin_serialized_index(copy, found, len(found)) == len(found)
    assert (np.array(found) == case.packed.index).all()
