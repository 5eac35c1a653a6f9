"""The plugin with weights of w8a8: it rounds X into its workspace, and multiplies integers exactly by its kernels."""

import ctypes

import numpy as np
import pytest

from tests.oracles.element_packing import KEPT
from tests.oracles.integer_packing import W8A8
from tests.plugins.dense_path_cases import FAILS, MARKS
from tests.plugins.dense_plugin import A100, Linear
from tests.plugins.mosaic_cases import DTYPES, make_case

pytestmark = MARKS
PACKINGS = [(64, False), (128, False), (64, True), (128, True)]


@pytest.fixture
def plugin(load, driver, byte_kernel):
    """A driver that runs the kernels for w8a8."""
    made = load(driver)
    run = [
        ctypes.cast(getattr(byte_kernel.lib, f"patch_host_{name}"), ctypes.c_void_p)
        for name in ("run", "error")
    ]
    made.lib.patch_plugin_run_kernels(*run)
    made.device(A100)
    return made


def case_of(tokens, panel_rows, gated, dtype=DTYPES[0]):
    return make_case(
        tokens,
        (200, 324),
        panel_rows,
        gated=gated,
        integers=W8A8,
        dtype=dtype,
        residual=not gated,
        seed=1,
    )


@pytest.mark.parametrize(("panel_rows", "gated"), PACKINGS)
def test_any_tokens_give_the_exact_bits(plugin, panel_rows, gated):
    """One context, more tokens and fewer; the workspace is that of the profile, and nothing beside it is written."""
    cases = [case_of(tokens, panel_rows, gated, DTYPES[1]) for tokens in (150, 1, 17, 0, 70, 150)]
    most = Linear.of(cases[0])
    builder = plugin.configured(most)
    context = ctypes.c_void_p(plugin.lib.patch_plugin_attach(builder))
    for case in cases:
        assert plugin.shapes(context, Linear.of(case)) == 0
        code, y = plugin.enqueue(context, case, plugin.workspace(builder, most))
        assert (code, plugin.fault()) == (0, "")
        np.testing.assert_array_equal(y, case.bits)


def test_enqueue_without_a_workspace_is_refused(plugin):
    case = case_of(3, 64, False)
    made = plugin.configured(Linear.of(case))
    assert plugin.shapes(made, Linear.of(case)) == 0
    # x, the tensors of all kinds, scales, bias and residual; neither Y nor a workspace
    tensors = (ctypes.c_void_p * 64)(*[1 << 12] * (1 + 2 * len(KEPT) + 3))
    linear = Linear.of(case)
    assert plugin.lib.patch_plugin_enqueue(made, ctypes.byref(linear), ctypes.byref(tensors), None) == FAILS
    assert plugin.launched() == [0, 0, 0]
