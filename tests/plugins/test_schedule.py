"""Which configuration runs what, how K is cut, and that the workspace suffices."""

import numpy as np
import pytest

from tests.plugins.host_kernel import COMPILER

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
)


@pytest.mark.parametrize("panel_rows", [64, 128])
def test_workspace_bound_covers_every_smaller_shape(kernel, panel_rows):
    """TensorRT asks for the workspace of the largest shape, once, before it knows the device."""
    configs = [i for i, c in enumerate(kernel.configs().values()) if c[0] == panel_rows]
    for shape in SHAPES:
        for most in (1, 16, 17, 300, 5000):
            bound = kernel.lib.patch_host_workspace_bound(most, *shape, panel_rows)
            for tokens in {1, most, most // 2 + 1, max(1, most - 1), min(most, 64), min(most, 128)}:
                for sms in SMS:
                    for fixed in (-1, *configs):
                        _, splits = kernel.schedule(tokens, shape, panel_rows, sms, fixed)
                        need = kernel.lib.patch_host_partial_bytes(tokens, *shape, panel_rows, splits)
                        assert need <= bound


@pytest.mark.parametrize("panel_rows", [64, 128])
def test_tokens_choose_the_configuration(kernel, panel_rows):
    names = list(kernel.configs())
    chosen = {m: names[kernel.schedule(m, (4096, 4096), panel_rows, 108)[0]] for m in (1, 16, 64, 4096)}
    assert chosen == {1: f"decode-{panel_rows}", 16: f"decode-{panel_rows}", 64: f"mid-{panel_rows}"} | {
        4096: f"prefill-{panel_rows}"
    }


def test_decode_splits_until_the_device_is_full_and_prefill_does_not(kernel):
    """4096 rows are 32 panels for 108 SMs."""
    _, splits = kernel.schedule(1, (4096, 4096), 128, 108)
    assert splits >= 2 and 32 * splits <= 2 * 108
    assert kernel.schedule(8192, (4096, 4096), 128, 108)[1] == 1
    assert kernel.schedule(1, (32000, 4096), 128, 108)[1] == 1


def test_a_tactic_fixes_the_configuration(kernel):
    for number, (panel_rows, *_) in enumerate(kernel.configs().values()):
        assert kernel.schedule(1, (4096, 4096), panel_rows, 108, number)[0] == number
        assert kernel.schedule(1, (4096, 4096), 192 - panel_rows, 108, number)[0] == -1


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 16])
def test_parts_cover_every_slab_once_at_equal_cost(kernel, parts):
    rng = np.random.default_rng(parts)
    for dense, sparse in [(0, 0), (1, 0), (0, 1), (64, 0), (0, 64), *rng.integers(0, 200, (50, 2)).tolist()]:
        cuts = [kernel.lib.patch_host_cut(dense, sparse, part, parts) for part in range(parts + 1)]
        assert cuts[0] == 0 and cuts[-1] == dense + sparse and cuts == sorted(cuts)
        cost = np.cumsum([0] + [16] * dense + [9] * sparse)
        assert np.abs(np.diff(cost[cuts]) - cost[-1] / parts).max() <= 16
