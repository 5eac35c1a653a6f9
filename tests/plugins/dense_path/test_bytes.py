"""The dense path of w8a8: int8 rows by cuBLASLt, whose exact sums are scaled as the kernels scale them."""

import ctypes

import numpy as np
import pytest

from tests.oracles.element_packing import W8A8
from tests.plugins.configs import ALL
from tests.plugins.dense_path_cases import MARKS, large, run
from tests.plugins.dense_plugin import A100, DENSE_PATH, H100, Linear, problem_of
from tests.plugins.host_kernel import Launch
from tests.plugins.mosaic_cases import DTYPES, make_case

pytestmark = MARKS

KINDS = 3
NUMBER = 4  # of the type in kWeightTypeNames


LINEARS = {
    "plain": {"bias": False},
    "bias": {},
    "residual": {"residual": True, "bias": False},
    "gelu, residual": {"activation": "gelu", "residual": True},
    "gated": {"gated": True, "activation": "silu"},
    "gate without an activation": {"gated": True},
    "gated, all": {"gated": True, "activation": "gelu_tanh", "residual": True},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LINEARS)
def test_linears_have_the_bits_of_the_kernels(load, driver, small_driver, byte_kernel, name, dtype):
    """One piece and several, ragged and not, all dense, all 2:4, all 6:8 and mixed."""
    how = LINEARS[name]
    for i, (rows, columns, panel_rows, used) in enumerate(
        [
            (264, 328, 64, small_driver),
            (256, 192, 128, driver),
            (392, 264, 128, small_driver),
            (72, 8, 64, driver),
        ]
    ):
        case = make_case(
            90, (rows, columns), panel_rows, dtype=dtype, integers=W8A8, kinds=KINDS, share=(0.7, 0, 1, 1)[i],
            only=(0, 0, 1, 2)[i], seed=i, **how,
        )  # fmt: skip
        plugin = load(used)
        code, y = run(plugin, case)
        kernels, unpacked, activated = plugin.launched()
        pieces = plugin.pieces(problem_of(case), case.activation)[1]
        assert (code, kernels, unpacked, activated) == (0, 0, pieces, pieces)
        assert (pieces > 1) == (used is small_driver) and plugin.messages() == []
        config = ALL.index(f"w8a8-decode-{panel_rows}")
        launch = Launch(config, scalar=DTYPES.index(dtype), parts=3)
        kernel = byte_kernel.run(case.packed, case.x, case.bias, launch, **case.epilogue)
        np.testing.assert_array_equal(y, kernel if case.bits is None else case.bits)


def test_a_row_that_is_not_finite_stays_in_its_token(load, driver):
    plugin, case = load(driver), make_case(60, (136, 200), 64, integers=W8A8, kinds=KINDS, seed=3)
    case.x[7, 11] = np.array(np.inf, np.float16).view(np.uint16)
    _, y = run(plugin, case)
    broken = np.isnan(y.view(np.float16)).any(1)
    assert broken.nonzero()[0].tolist() == [7] and np.isnan(y[7].view(np.float16)).all()
    np.testing.assert_array_equal(np.delete(y, 7, 0), np.delete(case.bits, 7, 0))


def test_only_hopper_offers_it_for_many_tokens(load, driver):
    plugin = load(driver)
    for share, gated in ((0.0, 0), (0.5, 0), (1.0, 1)):
        for device, tokens, expected in (
            (A100, 16384, [1]), (H100, 1, [1]), (H100, 64, [1]), (H100, 16384, [1, DENSE_PATH]),
        ):  # fmt: skip
            plugin.device(device)
            linear = large(tokens, (11008, 4096), 128, gated, share, 3 * gated, NUMBER)
            made = plugin.configured(linear)
            offered = plugin.tactics(made)
            assert offered == expected or offered == expected[-1:], (share, tokens, offered)
            named = plugin.lib.patch_plugin_timing_id(made).decode().partition(" w8a8 ")[2].split()
            assert named == ["dense,2:4", *["dense-path"] * (device is H100)]
            if DENSE_PATH in offered:
                sums = 4 * tokens * 64
                assert plugin.workspace(made, linear) > tokens * 4096 + sums + (32 << 20)
            plugin.lib.patch_plugin_delete(made)


def test_what_is_rounded_lies_before_the_pieces(load, small_driver):
    """The workspace that the builder asks for holds X of the largest profile, a piece and its sums, and nothing is written
    beside it: `enqueue` of the driver looks."""
    plugin = load(small_driver)
    many, few = (
        make_case(tokens, (264, 328), 64, integers=W8A8, kinds=KINDS, seed=1) for tokens in (120, 31)
    )
    builder = plugin.configured(Linear.of(many))
    assert plugin.set_tactic(builder, DENSE_PATH) == 0
    workspace = plugin.workspace(builder, Linear.of(many))
    for case in (many, few):
        context = ctypes.c_void_p(plugin.lib.patch_plugin_clone(builder))
        assert plugin.shapes(context, Linear.of(case)) == 0
        code, y = plugin.enqueue(context, case, workspace)
        assert code == 0 and plugin.fault() == ""
        np.testing.assert_array_equal(y, case.bits)
        plugin.lib.patch_plugin_delete(context)
