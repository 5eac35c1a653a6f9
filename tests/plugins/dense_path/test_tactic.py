"""The dense path as a tactic: when it is offered and taken, its workspace, and the kernels that stand in for it."""

import ctypes
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.quant.table import FLOAT16, W8A8
from patch_compile.hardware.cards import RatedCard, card_named
from patch_compile.planning.roofline.choice import choose_schedule, limits_of
from patch_compile.planning.roofline.linear_roofline import DENSE_PATH as DENSE_PATH_NAME
from patch_compile.planning.roofline.linear_roofline import Linear as Linear24
from patch_compile.planning.roofline.linear_roofline import dense_path_time, predict
from tests.oracles.element_packing import W8A8 as NUMBER_OF_W8A8
from tests.plugins.dense_path_cases import FAILS, MARKS, large, run
from tests.plugins.dense_plugin import A100, DENSE_PATH, EAGER, H100, Linear
from tests.plugins.host_kernel import Device, problem_of
from tests.plugins.mosaic_cases import make_case

pytestmark = MARKS


def test_only_hopper_offers_it_for_many_tokens(load, driver):
    plugin = load(driver)

    def offered(device, linear):
        plugin.device(device)
        asked = plugin.configured(linear)
        with_it = DENSE_PATH in plugin.tactics(asked)
        workspace = plugin.workspace(asked, linear)
        name = plugin.lib.patch_plugin_timing_id(plugin.new(linear))
        assert name.endswith(b" dense-path") == (device is H100)
        kernels = Linear.from_buffer_copy(linear)
        kernels.in_features -= 4  # its rows are too short of alignment
        plain = plugin.configured(kernels)
        assert DENSE_PATH not in plugin.tactics(plain)
        assert (workspace > plugin.workspace(plain, kernels) + (32 << 20)) == with_it or not with_it
        return with_it

    for shape, gated in (((4096, 4096), 0), ((11008, 4096), 0), ((11008, 4096), 1)):
        rows = 128
        for tokens, wanted in ((1, False), (16, False), (64, False), (4096, True), (32768, True)):
            linear = large(tokens, shape, rows, gated, activation=3 * gated)
            assert offered(H100, linear) == wanted, (shape, tokens)
            assert not offered(A100, linear)
    assert not offered(H100, large(4096, (100, 4096)))  # and so are rows of Y
    assert not offered(Device(), large(4096))  # a builder without a GPU
    assert plugin.messages() == []


def test_few_tokens_use_the_kernels(load, driver):
    plugin, many, few = load(driver), make_case(600, (264, 328), 64), make_case(3, (264, 328), 64)
    plugin.device(Device(1, 227 << 10, 50 << 20, 10000, 90, 0, 1 << 30))  # few tokens are bound by bytes
    context = plugin.configured(Linear.of(many))
    assert plugin.set_tactic(context, DENSE_PATH) == 0
    for case, counts in ((few, [1, 0, 0]), (many, [0, 1, 0]), (few, [1, 0, 0])):
        assert plugin.shapes(context, Linear.of(case)) == 0
        assert plugin.enqueue(context, case, plugin.workspace(context, Linear.of(many)))[0] == 0
        assert plugin.launched() == counts


def test_engine_plugins_ask_for_equal_workspace(load, driver):
    """An engine creates its plugin with a tactic and never configures it."""
    plugin, linear = load(driver), large(4096)
    plugin.device(H100)
    builder, engine = plugin.configured(linear), plugin.new(linear)
    kernels = plugin.workspace(engine, linear)
    assert plugin.set_tactic(engine, DENSE_PATH) == 0
    assert plugin.workspace(engine, linear) == plugin.workspace(builder, linear) > kernels


@pytest.mark.parametrize("tactic", [0, 1])
def test_other_tactics_never_take_it(load, driver, tactic):
    """An engine that was built for another tactic has no workspace for the dense path."""
    plugin, case = load(driver), make_case(150, (264, 328), 128)
    context = plugin.configured(Linear.of(case))
    assert plugin.set_tactic(context, tactic) == 0 and plugin.shapes(context, Linear.of(case)) == 0
    assert plugin.enqueue(context, case, 1 << 20)[0] == 0 and plugin.launched() == [1, 0, 0]


def test_misaligned_pointers_use_the_kernels(load, driver):
    plugin, case = load(driver), make_case(150, (264, 328), 64)
    code, _ = run(plugin, case, offset=8)
    assert code == 0 and plugin.launched() == [1, 0, 0]


def test_an_unknown_tactic_is_refused(load, driver):
    plugin = load(driver)
    for tactic in (-(2**31), -1, 2, 5, 999, 1001, 2**31 - 1):  # 2 to 14 were configurations
        assert plugin.set_tactic(plugin.configured(large(16)), tactic) == FAILS
        (error,) = plugin.messages()
        assert f"no tactic {tactic}: " in error and error.endswith("; build it again")


def test_missing_cublaslt_warns_once(load, driver, tmp_path, library):
    plugin = load(driver, tmp_path / "libcublasLt.so.13")
    plugin.device(H100)
    for linear in (large(4096), large(8192)):
        assert DENSE_PATH not in plugin.tactics(plugin.configured(linear))
    (warning,) = plugin.messages()
    assert (
        warning.startswith("2 prompts are multiplied by the plugin's kernels")
        and "PATCH_CUBLASLT is " in warning
    )
    assert not plugin.lib.patch_plugin_timing_id(plugin.new(large(4096))).endswith(b"dense-path")
    # An engine that was built with cuBLASLt still runs without it.
    context, case = plugin.configured(large(4096)), make_case(150, (264, 328), 64)
    plugin.device(EAGER)
    context = plugin.new(Linear.of(case))
    assert plugin.set_tactic(context, DENSE_PATH) == 0 and plugin.shapes(context, Linear.of(case)) == 0
    (warning,) = plugin.messages()
    assert warning.startswith(
        "2 multiplied by the kernels, though the engine was built for cuBLASLt: PATCH_CUBLASLT"
    )
    assert plugin.enqueue(context, case, 1 << 20)[0] == 0 and plugin.launched() == [1, 0, 0]


def test_on_the_library_path_there_may_be_none(load, driver, monkeypatch, tmp_path):
    """With no path named, the message lists the places that were searched. Skipped on a machine with cuBLASLt."""
    plugin = load(driver, "")
    plugin.device(H100)
    if DENSE_PATH in plugin.tactics(plugin.configured(large(4096))):
        pytest.skip("this machine has a cuBLASLt on its library path")
    (warning,) = plugin.messages()
    assert "LD_LIBRARY_PATH" in warning and "nvidia-cublas" in warning and "CUDA toolkit" in warning


@pytest.mark.parametrize(
    ("version", "usable"), [(110901, False), (120000, True), (131000, True), (140000, False)]
)
def test_other_versions_are_refused(load, driver, cublaslt, version, usable):
    cublaslt.stand_in_version(ctypes.c_size_t(version))
    try:
        plugin = load(driver)
        plugin.device(H100)
        assert (DENSE_PATH in plugin.tactics(plugin.configured(large(4096)))) == usable
        messages = plugin.messages()
        assert not messages if usable else f"it is version {version}" in messages[0]
    finally:
        cublaslt.stand_in_version(ctypes.c_size_t(130000))


def test_a_library_of_another_kind_is_refused(load, driver):
    plugin = load(driver, driver)
    plugin.device(H100)
    assert DENSE_PATH not in plugin.tactics(plugin.configured(large(4096)))
    assert "it is not cuBLASLt" in plugin.messages()[0]


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("create", "cublasLtCreate"),
        ("operation", "cublasLtMatmulDescCreate"),
        ("operation_set", "cublasLtMatmulDescSetAttribute"),
        ("layout", "cublasLtMatrixLayoutCreate"),
        ("preference", "cublasLtMatmulPreferenceCreate"),
        ("preference_set", "cublasLtMatmulPreferenceSetAttribute"),
        ("heuristic", "cublasLtMatmulAlgoGetHeuristic"),
    ],
)
def test_early_failures_fall_to_the_kernels(load, driver, cublaslt, function, call):
    plugin, case = load(driver), make_case(150, (264, 328), 64)
    context, alive = plugin.configured(Linear.of(case)), cublaslt.stand_in_alive()
    assert plugin.set_tactic(context, DENSE_PATH) == 0
    cublaslt.stand_in_fail(function.encode(), 13)
    try:
        assert plugin.shapes(context, Linear.of(case)) == 0
    finally:
        cublaslt.stand_in_fail(function.encode(), 0)
    (warning,) = plugin.messages()
    assert warning.endswith(f"{call} failed with status 13")
    assert plugin.enqueue(context, case, 1 << 20)[0] == 0 and plugin.launched() == [1, 0, 0]
    assert cublaslt.stand_in_alive() - alive == (function != "create")  # the process keeps its handle


@pytest.mark.parametrize("function", ["matmul", "operation_set"])
def test_what_fails_in_a_launch_is_an_error(load, driver, cublaslt, function):
    plugin, case = load(driver), make_case(150, (264, 328), 64)
    linear = Linear.of(case)
    context = plugin.configured(linear)
    assert plugin.set_tactic(context, DENSE_PATH) == 0 and plugin.shapes(context, linear) == 0
    cublaslt.stand_in_fail(function.encode(), 14)
    try:
        assert plugin.enqueue(context, case, plugin.workspace(context, linear))[0] == FAILS
    finally:
        cublaslt.stand_in_fail(function.encode(), 0)
    (error,) = plugin.messages()
    assert error.startswith("1 X [1, 150, 328] to 264 features: cublasLt") and error.endswith("status 14")


@settings(max_examples=300)
@given(
    st.integers(1, 40000),
    st.integers(1, 60000),
    st.integers(1, 4000),
    st.sampled_from([64, 128]),
    st.booleans(),
    st.integers(0, 3),
    st.floats(0, 1),
)
def test_pieces_cover_all_panels_and_fit_the_workspace(
    unpacker, tokens, rows, k, panel_rows, gated, activation, part
):
    """TensorRT asks for the workspace of a profile's most tokens, and a call may have any fewer."""
    sizes = ((rows, 8 * k), panel_rows, (0, 0), gated)
    bound = unpacker.pieces(problem_of(tokens, *sizes), activation)[3]
    for fewer in {max(1, int(tokens * part)), tokens}:
        panels, count, used, _ = unpacker.pieces(problem_of(fewer, *sizes), activation)
        every = -(-(1 + gated) * rows // panel_rows)
        assert 1 <= panels <= every and (count - 1) * panels < every <= count * panels
        assert used <= bound and (used <= 64 << 20 or panels == 1)


def test_the_choice_follows_the_number_of_tokens(unpacker):
    """A linear that takes the dense path takes it for more tokens too."""
    for shape, gated in (((4096, 4096), 0), ((14336, 4096), 0), ((4096, 11008), 0), ((14336, 4096), 1)):
        rows = 128
        slabs = -(-(1 + gated) * shape[0] // rows) * -(-shape[1] // 64)
        for share in (0.0, 0.5, 0.9, 1.0):
            sparse = round(share * slabs)
            taken = [
                unpacker.takes_dense_path(
                    problem_of(tokens, shape, rows, (slabs - sparse, sparse), gated), H100
                )
                for tokens in (1, 4, 16, 32, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
            ]
            assert taken == sorted(taken) and not taken[4] and taken[-1], (shape, share, taken)


def test_plans_count_only_on_offered_tactics(unpacker):
    """The plugin takes the dense path wherever the plan predicts that it is 3 % faster."""
    card = card_named("H100")
    assert isinstance(card, RatedCard)
    limits = limits_of(card)
    counted = Counter()
    for weights, shape, share, tokens in itertools.product(
        (FLOAT16, W8A8),
        ((4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (4864, 896)),
        (0.0, 0.5, 0.7, 0.9, 1.0),
        (128, 256, 512, 1024, 2048, 4096, 16384),
    ):
        asked = Linear24(*shape, share, weights=weights)
        problem = asked.problem(tokens)
        mine = problem_of(tokens, shape, 128, problem.slabs, weights=NUMBER_OF_W8A8 * (weights is W8A8))
        found = predict(card, asked, tokens)
        chosen, _ = choose_schedule(problem, limits)
        kernels = predict(card, asked, tokens, chosen).microseconds
        if found.config == DENSE_PATH_NAME and found.microseconds < 0.97 * kernels:
            counted[weights] += 1
            assert unpacker.takes_dense_path(mine, H100), (weights, shape, share, tokens)
        if dense_path_time(card, asked, tokens) > 2 * kernels:
            assert not unpacker.takes_dense_path(mine, H100), (weights, shape, share, tokens)
    assert counted[FLOAT16] > 50 and counted[W8A8] > 10
