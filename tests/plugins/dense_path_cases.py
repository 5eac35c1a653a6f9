"""Marks, sizes and packed weights for tests of the dense path."""

import ctypes

import numpy as np
import pytest

from patch_compile.plugin.toolchain import describe_toolchain
from tests.oracles.element_packing import prune, prune_2_of_4
from tests.oracles.integer_packing import quantise
from tests.plugins.dense_plugin import DENSE_PATH, Linear
from tests.plugins.host_kernel import SlabCounts

MISSING = [item.what for item in describe_toolchain() if not item.found]
MARKS = [pytest.mark.skipif(bool(MISSING), reason=f"to compile the plugin there is no {MISSING}")]
FAILS = -1  # the driver's code for a call that failed
PIECE = 100_000  # bytes; the small build cuts a linear of a few panels into several pieces


def plain_rows(bits, sparse_slabs, panel_rows):
    """`bits` after packing, padded to whole panels and slabs; −0.0 in a 2:4 slab becomes 0."""
    panels, slabs = sparse_slabs.shape
    out = np.zeros((panels * panel_rows, slabs * 64), np.uint16)
    out[: bits.shape[0], : bits.shape[1]] = bits
    inside = np.repeat(np.repeat(sparse_slabs, panel_rows, 0), 64, 1)
    out[inside & (out == 0x8000)] = 0
    return out


def random_bits(rng, shape, sparse_slabs, panel_rows):
    """Random 16-bit patterns, NaNs included; a 2:4 slab keeps at most two of every four."""
    bits = rng.integers(0, 1 << 16, shape, np.uint16)
    bits[rng.random(shape) < 0.1] = rng.choice([0, 0x8000])
    keep = prune_2_of_4(np.ones((shape[0], -(-shape[1] // 4) * 4), np.float32), rng)[:, : shape[1]] != 0
    inside = np.repeat(np.repeat(sparse_slabs, panel_rows, 0), 64, 1)[: shape[0], : shape[1]]
    return np.where(inside & ~keep, 0, bits).astype(np.uint16)


def random_pair(rng, shape, sparse_slabs, panel_rows):
    """Random bits of gate and up `[2, rows, columns]`, and of their packed rows; see `random_bits`."""
    rows, columns = shape
    packed = random_bits(rng, (2 * rows, columns), sparse_slabs, panel_rows)
    return packed.reshape(rows // 8, 2, 8, columns).swapaxes(0, 1).reshape(2, rows, columns), packed


def weight_of(integers, codes, rng, columns, panel_rows=64):
    """Random integers of a weight whose slabs have these kinds."""
    weight = rng.standard_normal((codes.shape[0] * panel_rows, columns), np.float32) / 8
    inside = np.repeat(np.repeat(codes, panel_rows, 0), 64, 1)[:, :columns]
    for kind in np.unique(codes):
        weight = np.where(inside == kind, prune(weight, int(kind), rng, integers), weight)
    return quantise(weight, integers, rng)


def large(tokens, shape=(4096, 4096), rows=128, gated=0, share=0.8, activation=0, weights=0):
    slabs = -(-(1 + gated) * shape[0] // rows) * -(-shape[1] // 64)
    sparse = round(share * slabs)
    counts = SlabCounts.by_kind((slabs - sparse, sparse))
    return Linear(shape[1], shape[0], rows, gated, 0, activation, weights, 0, 0, counts, 3, tokens)


def run(plugin, case, **how):
    """Return the code and Y of one linear, configured and launched as an engine with the dense path's tactic does."""
    linear = Linear.of(case)
    builder = plugin.configured(linear)
    assert plugin.tactics(builder)[-1] == DENSE_PATH
    assert plugin.set_tactic(builder, DENSE_PATH) == 0
    context = ctypes.c_void_p(plugin.lib.patch_plugin_clone(builder))
    assert plugin.shapes(context, linear) == 0
    code, y = plugin.enqueue(context, case, plugin.workspace(builder, linear), **how)
    assert plugin.fault() == ""
    for made in (builder, context):
        plugin.lib.patch_plugin_delete(made)
    return code, y
