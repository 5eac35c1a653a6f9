"""An X without tokens does nothing; a negative or absurd number of tokens is refused with a message."""

import ctypes

import pytest

from tests.oracles.integer_packing import W8A8
from tests.plugins.dense_path_cases import FAILS, MARKS, large
from tests.plugins.dense_plugin import DENSE_PATH, EAGER, H100, Linear
from tests.plugins.host_kernel import Arguments, problem_of
from tests.plugins.mosaic_cases import make_case

pytestmark = MARKS

MOST = 2**31 - 1
# (batch, tokens) of X; some products are 2^64 or 2^80, which a 64-bit integer holds as 0.
TOO_MANY = [(1, MOST + 1), (1, 2**62), (2**16, 2**15), (2**40, 2**40), (2**62, 4), (3, 2**63 - 1)]
NEGATIVE = [(1, -1), (-1, 1), (-1, -1), (0, -1), (-1, 0), (1, -(2**63)), (2**40, -(2**40))]


@pytest.mark.parametrize(
    ("panel_rows", "how"),
    [(64, {}), (128, {}), (64, {"gated": True}), (64, {"integers": W8A8, "kinds": 3})],
    ids=str,
)
@pytest.mark.parametrize("device", [EAGER, H100], ids=["eager", "H100"])
def test_every_tactic_takes_no_tokens(load, driver, device, panel_rows, how):
    """Calls without tokens come first in a context, and between calls that have tokens."""
    plugin = load(driver)
    plugin.device(device)
    none, some = (make_case(tokens, (264, 328), panel_rows, residual=True, **how) for tokens in (0, 150))
    builder = plugin.configured(Linear.of(some))
    workspace = plugin.workspace(builder, Linear.of(some))
    for tactic in (0, *plugin.tactics(builder), DENSE_PATH):
        assert plugin.set_tactic(builder, tactic) == 0
        context = ctypes.c_void_p(plugin.lib.patch_plugin_clone(builder))
        for case in (none, some, none, some):
            assert plugin.shapes(context, Linear.of(case)) == 0
            code, y = plugin.enqueue(context, case, workspace)
            assert code == 0 and plugin.fault() == ""
            assert sum(plugin.launched()) == 0 if case is none else sum(plugin.launched()) > 0
            assert y.shape == (len(case.x), 264)
        assert plugin.shapes(context, Linear.of(some), batch=0) == 0
        plugin.lib.patch_plugin_delete(context)
    assert plugin.messages() == []


def test_a_profile_may_have_no_tokens_at_most(load, driver):
    plugin = load(driver)
    plugin.device(H100)
    linear = large(0)
    builder = plugin.configured(linear)
    assert DENSE_PATH not in plugin.tactics(builder) and plugin.workspace(builder, linear) == 0
    assert plugin.set_tactic(builder, DENSE_PATH) == 0
    assert plugin.workspace(builder, linear) > 0  # never configured for it, but an engine may say so
    assert plugin.messages() == []


def test_the_dense_path_itself_takes_no_tokens(unpacker):
    unpacker.launched()  # what other tests have left
    for gated, activation in ((0, 0), (1, 3)):
        problem = problem_of(0, (264, 328), 64, (10, 20), gated)
        arguments = Arguments(activation=activation)
        unpacker.dense_path(problem, 0, arguments, 0)
        assert unpacker.launched() == [0, 0, 0]
        assert unpacker.pieces(problem, activation)[1] >= 1
        assert not unpacker.takes_dense_path(problem, EAGER, activation)


@pytest.mark.parametrize(
    ("batch", "tokens", "said"),
    [
        *((*size, "X has shape {}, which has a negative dimension") for size in NEGATIVE),
        *((*size, "more than 2^31 - 1 tokens in X of shape {}") for size in TOO_MANY),
    ],
)
def test_senseless_numbers_of_tokens_are_refused(load, driver, batch, tokens, said):
    plugin, linear = load(driver), large(16)
    context = plugin.configured(linear)
    linear.tokens = tokens
    assert plugin.shapes(context, linear, batch) == FAILS
    (error,) = plugin.messages()
    assert error == f"1 {said.format([batch, tokens, 4096])}"


def test_refused_token_counts_are_not_launched(load, driver):
    plugin, case = load(driver), make_case(3, (264, 328), 64)
    context = plugin.configured(Linear.of(case))
    assert plugin.shapes(context, Linear.of(case)) == 0
    nothing = ctypes.byref((ctypes.c_void_p * 9)())
    for tokens in (-1, MOST + 1):
        linear = Linear.of(case)
        linear.tokens = tokens
        enqueued = plugin.lib.patch_plugin_enqueue(context, ctypes.byref(linear), nothing, None)
        assert enqueued == FAILS and plugin.launched() == [0, 0, 0]
    assert [message[:12] for message in plugin.messages()] == ["1 X has shap", "1 more than "]


def test_a_profile_with_a_negative_maximum_is_refused(load, driver):
    plugin, linear = load(driver), large(-1)
    assert plugin.configure(plugin.new(linear), linear, timed=1) == FAILS
    (error,) = plugin.messages()
    assert error.startswith("1 the largest X of a profile has shape [1, -1, 4096], which has a negative")


def test_profiles_are_clipped_to_the_limit(load, driver):
    """Dimensions that depend on data may have such loose bounds; each call's own number is checked."""
    plugin = load(driver)
    plugin.device(H100)
    bounds = []
    for tokens in (MOST, MOST + 1, 2**62):
        linear = large(tokens)
        bounds.append(plugin.workspace(plugin.configured(linear), linear))
    assert len(set(bounds)) == 1 and bounds[0] > 0
    assert plugin.messages() == []
