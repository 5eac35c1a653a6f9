"""What tests of the dense path share: marks, sizes and packed weights."""

import ctypes

import numpy as np
import pytest

from patch_compile.plugin.toolchain import describe_toolchain
from tests.oracles.element_packing import prune_2_of_4
from tests.plugins.dense_plugin import DENSE_PATH, Linear

MISSING = [item.what for item in describe_toolchain() if not item.found]
MARKS = [
    pytest.mark.skipif(bool(MISSING), reason=f"to compile the plugin there is no {MISSING}"),
    pytest.mark.xdist_group("dense-path"),  # cuBLASLt is named by a variable of the process
]
FAILS = -1  # what the driver returns for a call that failed
PIECE = 100_000  # bytes, in the small build: some pieces for a linear of a few panels


def plain_rows(bits, sparse_slabs, panel_rows):
    """What packing keeps of `bits`: −0.0 in a 2:4 slab becomes 0; whole panels and slabs."""
    panels, slabs = sparse_slabs.shape
    out = np.zeros((panels * panel_rows, slabs * 64), np.uint16)
    out[: bits.shape[0], : bits.shape[1]] = bits
    inside = np.repeat(np.repeat(sparse_slabs, panel_rows, 0), 64, 1)
    out[inside & (out == 0x8000)] = 0
    return out


def random_bits(rng, shape, sparse_slabs, panel_rows):
    """Any 16 bits, NaNs among them; of every four two are kept in a 2:4 slab, or fewer."""
    bits = rng.integers(0, 1 << 16, shape, np.uint16)
    bits[rng.random(shape) < 0.1] = rng.choice([0, 0x8000])
    keep = prune_2_of_4(np.ones((shape[0], -(-shape[1] // 4) * 4), np.float32), rng)[:, : shape[1]] != 0
    inside = np.repeat(np.repeat(sparse_slabs, panel_rows, 0), 64, 1)[: shape[0], : shape[1]]
    return np.where(inside & ~keep, 0, bits).astype(np.uint16)


def large(tokens, shape=(4096, 4096), rows=128, gated=0, share=0.8, activation=0):
    slabs = (1 + gated) * -(-shape[0] // rows) * -(-shape[1] // 64)
    sparse = round(share * slabs)
    return Linear(shape[1], shape[0], rows, gated, 0, activation, 0, 0, slabs - sparse, sparse, tokens)


def run(plugin, case, **how):
    """Y of one linear, from configuration to the launch, as an engine with the tactic of the dense path runs it."""
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
