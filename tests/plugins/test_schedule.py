"""How work is dealt out, which configuration runs what, and that the workspace suffices."""

import numpy as np
import pytest

from tests.plugins.host_kernel import COMPILER, Problem

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")

SMS = (20, 46, 84, 108, 132, 188, 400)
SHAPES = (
    (4096, 4096),
    (11008, 4096),
    (4096, 11008),
    (32000, 4096),
    (1024, 1024),
    (576, 576),
    (64, 64),
    (50257, 768),
    (32768, 32768),
)


def problem(tokens, shape, panel_rows, share=0.8, gated=False):
    slabs = -(-shape[0] // panel_rows) * -(-shape[1] // 64) * (1 + gated)
    sparse = round(share * slabs)
    return Problem(tokens, *shape, panel_rows, slabs - sparse, sparse, gated)


PACKINGS = [(64, False), (128, False), (64, True)]  # rows of a panel, gated


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("packing", PACKINGS)
def test_workspace_bound_covers_every_smaller_shape(kernel, packing, share):
    """TensorRT asks for the workspace of the largest shape, once, before it knows the device."""
    panel_rows, gated = packing
    configs = [
        i for i, c in enumerate(kernel.configs().values()) if (c.panel_rows, c.gated) == (panel_rows, gated)
    ]
    for shape in SHAPES:
        for most in (1, 16, 17, 300, 5000, 65536):
            bound = kernel.workspace_bound(problem(most, shape, panel_rows, share, gated))
            for tokens in {1, most, most // 2 + 1, max(1, most - 1), min(most, 64), min(most, 128)}:
                for sms in SMS:
                    for fixed in (-1, *configs):
                        asked = problem(tokens, shape, panel_rows, share, gated)
                        config, parts = kernel.schedule(asked, sms, fixed)
                        assert config in configs
                        assert kernel.lib.patch_host_partial_bytes(config, parts) <= bound
                        assert 1 <= parts <= 2 * 192  # counters


def test_the_workspace_does_not_grow_with_the_tokens(kernel):
    bounds = [kernel.workspace_bound(problem(tokens, (32768, 32768), 64)) for tokens in (256, 65536)]
    assert bounds[0] == bounds[1] < 2**24


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("sms", [84, 108, 128])
def test_tokens_choose_the_configuration(kernel, packing, sms):
    panel_rows, gated = packing
    names = list(kernel.configs())
    chosen = [
        names[kernel.schedule(problem(m, (4096, 4096), panel_rows, gated=gated), sms)[0]]
        for m in (1, 16, 64, 512, 4096)
    ]
    kinds = ("decode", "decode", "mid", "prefill", "prefill")
    assert chosen == ["gated-" * gated + f"{kind}-{panel_rows}" for kind in kinds]


def test_token_tiles_of_a_large_weight_walk_over_it_together(kernel):
    """Else each reads it from DRAM again: 32 panels x 2 token tiles are 64 parts, though there are 84 SMs."""
    assert kernel.schedule(problem(128, (4096, 4096), 128), 84) == (4, 64)
    _, parts = kernel.schedule(problem(128, (576, 576), 128), 84)  # this one stays in L2
    assert parts > 5 * 2


def test_decode_fills_the_device_and_prefill_is_not_cut(kernel):
    """4096 rows are 32 panels for 108 SMs."""
    _, parts = kernel.schedule(problem(1, (4096, 4096), 128), 108)
    assert parts >= 108
    assert kernel.schedule(problem(8192, (4096, 4096), 128), 108)[1] == 1


def test_a_small_linear_is_not_cut_into_crumbs(kernel):
    """Of 9 panels of 9 slabs, each part has two dense slabs' worth to do at least."""
    _, parts = kernel.schedule(problem(1, (576, 576), 64, share=0.0), 400)
    assert parts <= 81 // 2 + 1


def test_a_tactic_fixes_the_configuration(kernel):
    for number, config in enumerate(kernel.configs().values()):
        for rows, gated in PACKINGS:
            asked = problem(1, (4096, 4096), rows, gated=gated)
            chosen, parts = kernel.schedule(asked, 108, number)
            fits = (rows, gated) == (config.panel_rows, config.gated)
            assert chosen == (number if fits else -1) and (config.streams or parts == 1)


def starts_of(panels, tiles):
    """Where every unit starts, in the order of the launch: [(panel, tile, slab or None for the beginning, start)]."""
    found, at = [], 0
    for panel, (dense, sparse) in enumerate(panels):
        for tile in range(tiles):
            for slab, cost in enumerate([4] + [16] * dense + [9] * sparse):
                found.append((panel, tile, slab - 1, at))
                at += cost
    return found, at


@pytest.mark.parametrize("tiles", [1, 3])
def test_every_unit_belongs_to_one_part_and_parts_are_equal(kernel, tiles):
    rng = np.random.default_rng(tiles)
    for panels in (
        [(0, 0)],
        [(1, 0)],
        [(0, 1)],
        [(0, 0), (5, 5), (0, 0)],
        rng.integers(0, 20, (7, 2)).tolist(),
    ):
        units, total = starts_of(panels, tiles)
        for parts in {1, 2, 3, 5, max(1, total // 40), max(1, total // 16)}:
            if parts > max(1, total // 16):
                continue
            begins = [kernel.lib.patch_host_part_begin(part, total, parts) for part in range(parts + 1)]
            assert begins[0] == 0 and begins[-1] == total
            dealt = [kernel.lib.patch_host_part_of(start, total, parts) for *_, start in units]
            assert dealt == sorted(dealt) and set(dealt) == set(range(parts))
            for part, (*_, start) in zip(dealt, units, strict=True):
                assert begins[part] <= start < begins[part + 1]
            assert max(np.diff(begins)) - min(np.diff(begins)) <= 1


def test_slabs_before_a_place_are_those_that_start_there(kernel):
    for dense, sparse in [(0, 0), (3, 0), (0, 3), (4, 5)]:
        starts = np.cumsum([4] + [16] * dense + [9] * sparse)[:-1] if dense + sparse else np.array([])
        for offset in range(-2, 4 + 16 * dense + 9 * sparse + 30):
            assert kernel.lib.patch_host_slabs_before(offset, dense, sparse) == int((starts < offset).sum())
