"""The dense path of Hopper without one: its kernels on fibers, its host code beside a cuBLASLt that computes on the CPU."""

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch_compile.errors import PatchCompileError
from patch_compile.packing import pack
from patch_compile.plan.roofline import schedule
from patch_compile.plan.roofline.devices import DEVICES
from patch_compile.plan.roofline.linear_roofline import DENSE_PATH as DENSE_PATH_NAME
from patch_compile.plan.roofline.linear_roofline import Linear as Linear24
from patch_compile.plan.roofline.linear_roofline import dense_path_time, predict
from patch_compile.toolchain import describe_toolchain, find_nvcc
from plugins.bench.element_packing import Packed, pack_gated, pack_slabs, prune_2_of_4
from tests.mosaics import masked_by_hand, random_mask, random_weight, shapes, tile_sizes
from tests.plugins.dense_plugin import (
    A100,
    DENSE_PATH,
    EAGER,
    H100,
    DensePlugin,
    Linear,
    compile_driver,
    compile_stand_in,
    problem_of,
)
from tests.plugins.host_kernel import PLUGINS, Device, Problem
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, make_case, without_panels

MISSING = [item.what for item in describe_toolchain() if not item.found]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"to compile the plugin there is no {MISSING}"),
    pytest.mark.xdist_group("dense-path"),  # cuBLASLt is named by a variable of the process
]

PIECE = 100_000  # bytes, in the small build: some pieces for a linear of a few panels
FAILS = -1


@pytest.fixture(scope="session")
def driver(library_cache):
    return compile_driver(library_cache)


@pytest.fixture(scope="session")
def small_driver(library_cache):
    return compile_driver(library_cache, defines=(f"PATCH_PIECE_BYTES={PIECE}",))


@pytest.fixture(scope="session")
def library(library_cache):
    return compile_stand_in(library_cache)


@pytest.fixture(scope="session")
def cublaslt(library):
    return ctypes.CDLL(str(library))


@pytest.fixture
def load(monkeypatch, tmp_path, library):
    """Plugins by their driver and the path of their cuBLASLt, as if each were alone in a process."""

    def loaded(driver, path=library):
        monkeypatch.setenv("PATCH_CUBLASLT", str(path))
        plugin = DensePlugin(driver, tmp_path)
        plugin.device(EAGER)
        return plugin

    return loaded


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


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("panel_rows", [64, 128])
def test_unpacking_gives_back_every_bit(load, driver, panel_rows, share):
    """Ragged rows and columns, one panel and several, fewer slabs than a block writes and more."""
    plugin = load(driver)
    for seed, (rows, columns) in enumerate([(1, 4), (64, 64), (130, 252), (200, 260), (300, 644), (7, 1280)]):
        rng = np.random.default_rng(seed)
        sparse = rng.random((-(-rows // panel_rows), -(-columns // 64))) < share
        bits = random_bits(rng, (rows, columns), sparse, panel_rows)
        expected = plain_rows(bits, sparse, panel_rows)
        packed = pack_slabs(bits, sparse, panel_rows)
        assert (plugin.unpack(packed) == expected).all()
        for panel in range(len(sparse)):  # each as a piece of its own
            got = plugin.unpack(packed, panel, 1)
            assert (got == expected[panel * panel_rows : (panel + 1) * panel_rows]).all()


def test_unpacking_puts_the_gate_before_the_up(load, driver):
    plugin = load(driver)
    for rows, columns in [(64, 64), (200, 260), (130, 704)]:
        rng = np.random.default_rng(rows)
        sparse = rng.random((2, -(-rows // 64), -(-columns // 64))) < 0.5
        bits = np.stack([random_bits(rng, (rows, columns), s, 64) for s in sparse])
        sides = [plain_rows(b, s, 64) for b, s in zip(bits, sparse, strict=True)]
        packed = pack_gated(bits, sparse, 64)
        assert (plugin.unpack(packed) == np.concatenate(sides)).all()
        for first in range(sparse.shape[1]):
            got = plugin.unpack(packed, first, 1)
            assert (got == np.concatenate([side[first * 64 : first * 64 + 64] for side in sides])).all()


def test_slabs_that_were_dropped_become_zeros(load, driver):
    """Whole panels, the first and the last among them, and single slabs of a panel."""
    plugin = load(driver)
    keep = np.repeat([False, True, False, True, False], 64)
    emptied = without_panels(make_case(1, (5 * 64, 388), 64, seed=9), keep).packed
    got = plugin.unpack(emptied)
    assert (got[~keep] == 0).all() and (got[keep] != 0).any(1).all()

    case = make_case(1, (64, 640), 64, share=0.5, seed=2).packed
    whole, dense, sparse = plugin.unpack(case), len(case.dense), len(case.sparse)
    columns = case.index[4:]
    index = np.array([0, dense - 1, 0, sparse - 1, *columns[1:dense], *columns[dense + 1 :]], np.int32)
    fewer = Packed(case.shape, 64, case.dense[1:], case.sparse[1:], case.meta[1:], index)
    for gone in (columns[0], columns[dense]):
        whole[:, gone * 64 : gone * 64 + 64] = 0
    assert (plugin.unpack(fewer) == whole).all()


@settings(max_examples=25, deadline=None)
@given(
    shapes, tile_sizes, st.sampled_from([0.0, 0.3, 0.8, 1.0]), st.sampled_from([64, 128]), st.integers(0, 99)
)
def test_unpacking_what_the_compiler_packed(unpacker, shape, tile, share, panel_rows, seed):
    mask, pattern = random_mask(shape, tile, share, seed)
    weight = random_weight(shape, np.float16, seed)
    made = pack(weight.view(np.uint16), mask, panel_rows)
    packed = Packed(made.shape, made.panel_rows, made.dense, made.sparse, made.meta, made.index)
    got = unpacker.unpack(packed)[: shape[0], : shape[1]].view(np.float16)
    assert (got == masked_by_hand(weight, mask, pattern)).all()


@pytest.fixture(scope="module")
def unpacker(driver, tmp_path_factory):
    return DensePlugin(driver, tmp_path_factory.mktemp("unpacker"))


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


LINEARS = {
    "plain": {"bias": False},
    "bias": {},
    "residual": {"residual": True},
    "no bias, residual": {"bias": False, "residual": True},
    **{name: {"activation": name} for name in ACTIVATIONS if name},
    "gelu, residual, no bias": {"activation": "gelu", "residual": True, "bias": False},
    "gated": {"gated": True, "activation": "silu", "bias": False},
    "gated, all": {"gated": True, "activation": "gelu_tanh", "residual": True},
    "gate without an activation": {"gated": True},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LINEARS)
def test_every_linear_by_the_dense_path(load, driver, small_driver, name, dtype):
    """In one piece and in several, ragged and not; plain ones within the bound of one rounding."""
    how = LINEARS[name]
    plain = not how.get("gated") and not how.get("activation")
    for i, (rows, columns, panel_rows, used) in enumerate(
        [(264, 328, 64, small_driver), (256, 192, 128, driver), (392, 264, 128, small_driver)]
    ):
        if how.get("gated"):
            panel_rows = 64
        case = make_case(150, (rows, columns), panel_rows, dtype=dtype, seed=i, rounded=not plain, **how)
        plugin = load(used)
        code, y = run(plugin, case)
        assert code == 0 and case.worst(y) <= 1
        kernels, unpacked, activated = plugin.launched()
        pieces = plugin.pieces(problem_of(case), case.activation)[1]
        assert (kernels, unpacked, activated) == (0, pieces, 0 if plain else pieces)
        assert (pieces > 1) == (used is small_driver) and plugin.messages() == []


def test_the_same_bits_again_and_on_the_stream_that_is_given(load, small_driver, cublaslt):
    cublaslt.stand_in_stream.restype = ctypes.c_void_p
    case = make_case(150, (264, 328), 64, seed=1)
    first, second = (run(load(small_driver), case, stream=stream)[1] for stream in (0x1230, 0x4560))
    assert (first == second).all() and cublaslt.stand_in_stream() == 0x4560


def test_enqueue_makes_nothing_and_nothing_is_left(load, small_driver, cublaslt):
    """New shapes make all anew; a launch only names the bias and multiplies."""
    names = (
        "create",
        "operation",
        "layout",
        "preference",
        "preference_set",
        "heuristic",
        "operation_set",
        "matmul",
    )
    calls = lambda: {name: cublaslt.stand_in_calls(name.encode()) for name in names}  # noqa: E731
    plugin, case = load(small_driver), make_case(150, (264, 328), 64)
    linear = Linear.of(case)
    context = plugin.configured(linear)
    assert plugin.set_tactic(context, DENSE_PATH) == 0 and plugin.shapes(context, linear) == 0
    alive, before = cublaslt.stand_in_alive(), calls()
    workspace = plugin.workspace(context, linear)
    for _ in range(2):
        assert plugin.enqueue(context, case, workspace)[0] == 0
    assert plugin.shapes(context, linear) == 0  # the same again
    pieces = plugin.pieces(problem_of(case))[1]
    spent = {name: count - before[name] for name, count in calls().items()}
    assert spent == {name: 2 * pieces if name in ("operation_set", "matmul") else 0 for name in names}

    other = make_case(160, (264, 328), 64)
    assert plugin.shapes(context, Linear.of(other)) == 0
    code, y = plugin.enqueue(context, other, workspace)
    assert code == 0 and other.worst(y) <= 1 and cublaslt.stand_in_alive() == alive
    plugin.lib.patch_plugin_delete(context)
    assert cublaslt.stand_in_alive() < alive
    assert calls()["create"] == before["create"]  # one handle for the process and device


def large(tokens, shape=(4096, 4096), rows=128, gated=0, share=0.8, activation=0):
    slabs = (1 + gated) * -(-shape[0] // rows) * -(-shape[1] // 64)
    sparse = round(share * slabs)
    return Linear(shape[1], shape[0], rows, gated, 0, activation, 0, 0, slabs - sparse, sparse, tokens)


def test_it_is_offered_for_many_tokens_on_hopper_and_nowhere_else(load, driver):
    plugin = load(driver)

    def offered(device, linear):
        plugin.device(device)
        asked = plugin.configured(linear)
        with_it = DENSE_PATH in plugin.tactics(asked)
        workspace = plugin.workspace(asked, linear)
        name = plugin.lib.patch_plugin_timing_id(plugin.new(linear))
        assert name.endswith(b" dense-path") == (device is H100)
        kernels = Linear.from_buffer_copy(linear)
        kernels.in_features += 4  # its rows are too short of alignment
        plain = plugin.configured(kernels)
        assert DENSE_PATH not in plugin.tactics(plain)
        assert (workspace > plugin.workspace(plain, kernels) + (32 << 20)) == with_it or not with_it
        return with_it

    for shape, gated in (((4096, 4096), 0), ((11008, 4096), 0), ((11008, 4096), 1)):
        rows = 64 if gated else 128
        for tokens, wanted in ((1, False), (16, False), (64, False), (4096, True), (32768, True)):
            linear = large(tokens, shape, rows, gated, activation=3 * gated)
            assert offered(H100, linear) == wanted, (shape, tokens)
            assert not offered(A100, linear)
    assert not offered(H100, large(4096, (100, 4096)))  # and so are rows of Y
    assert not offered(Device(), large(4096))  # a builder without a GPU
    assert plugin.messages() == []


def test_few_tokens_of_the_tactic_go_by_the_kernels(load, driver):
    plugin, many, few = load(driver), make_case(600, (264, 328), 64), make_case(3, (264, 328), 64)
    plugin.device(Device(1, 227 << 10, 50 << 20, 200, 1269, 1 << 30))  # bytes count, and few tokens have most
    context = plugin.configured(Linear.of(many))
    assert plugin.set_tactic(context, DENSE_PATH) == 0
    for case, counts in ((few, [1, 0, 0]), (many, [0, 1, 0]), (few, [1, 0, 0])):
        assert plugin.shapes(context, Linear.of(case)) == 0
        assert plugin.enqueue(context, case, plugin.workspace(context, Linear.of(many)))[0] == 0
        assert plugin.launched() == counts


def test_a_plugin_of_an_engine_asks_for_the_same_workspace(load, driver):
    """It is made anew with its tactic, and never configured."""
    plugin, linear = load(driver), large(4096)
    plugin.device(H100)
    builder, engine = plugin.configured(linear), plugin.new(linear)
    kernels = plugin.workspace(engine, linear)
    assert plugin.set_tactic(engine, DENSE_PATH) == 0
    assert plugin.workspace(engine, linear) == plugin.workspace(builder, linear) > kernels


@pytest.mark.parametrize("tactic", [0, 1, 5])
def test_other_tactics_never_take_it(load, driver, tactic):
    """An engine that was built elsewhere has no workspace for it."""
    plugin, case = load(driver), make_case(150, (264, 328), 128)
    context = plugin.configured(Linear.of(case))
    assert plugin.set_tactic(context, tactic) == 0 and plugin.shapes(context, Linear.of(case)) == 0
    assert plugin.enqueue(context, case, 1 << 20)[0] == 0 and plugin.launched() == [1, 0, 0]


def test_pointers_that_are_less_aligned_go_by_the_kernels(load, driver):
    plugin, case = load(driver), make_case(150, (264, 328), 64)
    code, _ = run(plugin, case, offset=8)
    assert code == 0 and plugin.launched() == [1, 0, 0]


def test_an_unknown_tactic_is_refused(load, driver):
    plugin = load(driver)
    for tactic in (999, 1001):
        assert plugin.set_tactic(plugin.configured(large(16)), tactic) == FAILS
        assert f"no tactic {tactic}" in plugin.messages()[0]


def test_without_cublaslt_one_warning_says_how_to_get_it(load, driver, tmp_path, library):
    plugin = load(driver, tmp_path / "libcublasLt.so.13")
    plugin.device(H100)
    for linear in (large(4096), large(8192)):
        assert DENSE_PATH not in plugin.tactics(plugin.configured(linear))
    (warning,) = plugin.messages()
    assert warning.startswith("2 prompts are multiplied by mma.sp") and "PATCH_CUBLASLT is " in warning
    assert not plugin.lib.patch_plugin_timing_id(plugin.new(large(4096))).endswith(b"dense-path")
    # An engine that was built where there was one still runs.
    context, case = plugin.configured(large(4096)), make_case(150, (264, 328), 64)
    plugin.device(EAGER)
    context = plugin.new(Linear.of(case))
    assert plugin.set_tactic(context, DENSE_PATH) == 0 and plugin.shapes(context, Linear.of(case)) == 0
    (warning,) = plugin.messages()
    assert warning.startswith(
        "2 multiplied by mma.sp, though the engine was built for cuBLASLt: PATCH_CUBLASLT"
    )
    assert plugin.enqueue(context, case, 1 << 20)[0] == 0 and plugin.launched() == [1, 0, 0]


def test_on_the_library_path_there_may_be_none(load, driver, monkeypatch, tmp_path):
    """Nothing named: the message lists where it is looked for. Skipped where it is found."""
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
    assert "it is no cuBLASLt" in plugin.messages()[0]


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
def test_what_fails_beforehand_is_named_and_the_kernels_do_it(load, driver, cublaslt, function, call):
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
    assert cublaslt.stand_in_alive() - alive == (function != "create")  # the handle of this process


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


@settings(max_examples=300, deadline=None)
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
    """The workspace is asked for the most tokens of a profile, and any fewer may come."""
    sizes = (rows, 8 * k, 64 if gated else panel_rows, 0, 0, gated)
    bound = unpacker.pieces(Problem(tokens, *sizes), activation)[3]
    for fewer in {max(1, int(tokens * part)), tokens}:
        panels, count, used, _ = unpacker.pieces(Problem(fewer, *sizes), activation)
        every = -(-rows // sizes[2])
        assert 1 <= panels <= every and (count - 1) * panels < every <= count * panels
        assert used <= bound and (used <= 64 << 20 or panels == 1)


def test_the_choice_follows_the_number_of_tokens(unpacker):
    """Once the dense path is taken, it is taken for more tokens too."""
    for shape, gated in (((4096, 4096), 0), ((14336, 4096), 0), ((4096, 11008), 0), ((14336, 4096), 1)):
        rows = 64 if gated else 128
        slabs = (1 + gated) * -(-shape[0] // rows) * -(-shape[1] // 64)
        for share in (0.0, 0.5, 0.9, 1.0):
            sparse = round(share * slabs)
            taken = [
                unpacker.takes_dense_path(Problem(tokens, *shape, rows, slabs - sparse, sparse, gated), H100)
                for tokens in (1, 4, 16, 32, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
            ]
            assert taken == sorted(taken) and not taken[4] and taken[-1], (shape, share, taken)


def test_it_is_offered_wherever_the_plan_counts_on_it(unpacker):
    """The plugin's rule against the roofline's: where the plan has the dense path faster by 3 %, it is there."""
    device = DEVICES["H100"]
    limits = device.limits
    h100 = Device(limits.sms, limits.shared_bytes, limits.l2_bytes, limits.block_tokens, limits.fma, 2048)
    counted = 0
    for shape, share, tokens in itertools.product(
        ((4096, 4096), (11008, 4096), (4096, 11008), (14336, 4096), (4864, 896)),
        (0.0, 0.5, 0.7, 0.9, 1.0),
        (128, 256, 512, 1024, 2048, 4096, 16384),
    ):
        asked = Linear24(*shape, share)
        problem = asked.problem(tokens)
        mine = Problem(tokens, *shape, 128, problem.dense_slabs, problem.sparse_slabs)
        found = predict(device, asked, tokens)
        chosen, _ = schedule.choose_schedule(problem, limits)
        kernels = predict(device, asked, tokens, chosen).microseconds
        if found.config == DENSE_PATH_NAME and found.microseconds < 0.97 * kernels:
            counted += 1
            assert unpacker.takes_dense_path(mine, h100), (shape, share, tokens)
        if dense_path_time(device, asked, tokens) > 2 * kernels:
            assert not unpacker.takes_dense_path(mine, h100), (shape, share, tokens)
    assert counted > 50


# Names of cublasLt.h, library_types.h and cublas_api.h, and ours.
NUMBERS = {
    "CUBLASLT_MATMUL_DESC_TRANSA": "kTransposeA",
    "CUBLASLT_MATMUL_DESC_EPILOGUE": "kEpilogue",
    "CUBLASLT_MATMUL_DESC_BIAS_POINTER": "kBiasPointer",
    "CUBLASLT_EPILOGUE_BIAS": "kEpilogueBias",
    "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": "kMaxWorkspace",
    "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK": "kReductionSchemes",
    "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": "kReductionInOrder",
    **{f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{m}_BYTES": f"kAlignment{m}" for m in "ABCD"},
    "CUBLAS_COMPUTE_32F": "kCompute32",
    "CUBLAS_OP_T": "kTranspose",
    "CUBLAS_STATUS_SUCCESS": "kSuccess",
    "CUDA_R_32F": "kReal32",
    "CUDA_R_16F": "kReal16",
    "CUDA_R_16BF": "kBFloat16",
}


def find_header():
    """cublasLt.h of a wheel, a toolkit, or named by CUBLASLT_INCLUDE; None where there is none."""
    folders = [os.environ.get("CUBLASLT_INCLUDE", "")]
    site = Path(sysconfig.get_path("purelib")) / "nvidia"
    folders += [str(site / name / "include") for name in ("cu13", "cublas")]
    with contextlib.suppress(PatchCompileError):
        folders.append(str(find_nvcc().path.resolve().parents[1] / "include"))
    folders += ["/usr/local/cuda/include"]
    return next((Path(f) / "cublasLt.h" for f in folders if f and (Path(f) / "cublasLt.h").is_file()), None)


def test_numbers_and_structs_are_those_of_the_header(tmp_path):
    header = find_header()
    if header is None:
        pytest.skip("this machine has no cublasLt.h")
    checks = [f"static_assert(int({theirs}) == int({ours}));" for theirs, ours in NUMBERS.items()]
    checks += [
        "static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));",
        "static_assert(sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));",
        "static_assert(offsetof(Heuristic, workspace) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));",
        "static_assert(offsetof(Heuristic, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));",
    ]
    functions = re.findall(
        r'"(cublasLt\w+)", &f->(\w+)', (PLUGINS / "dense_path/cublaslt_library.cpp").read_text()
    )
    assert len(functions) == 12
    # As many arguments, of the same sizes, as the header says.
    checks += [
        f"static_assert(alike(&{theirs}, decltype(Functions::{ours}){{}}));" for theirs, ours in functions
    ]
    alike = (
        "template <class R, class... A, class S, class... B> constexpr bool alike(R (*)(A...), S (*)(B...)) {\n"
        "  if constexpr (sizeof...(A) == sizeof...(B))\n"
        "    return sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ...);\n"
        "  else return false;\n}\n"
    )
    source = tmp_path / "numbers.cpp"
    includes = '#include <cublasLt.h>\n#include <cstddef>\n#include "dense_path/cublaslt_api.h"\n'
    source.write_text(includes + "using namespace patch::cublaslt;\n" + alike + "\n".join(checks))
    command = [str(find_nvcc().path), "-std=c++17", "-c", str(source), "-o", str(tmp_path / "numbers.o")]
    command += ["-I", str(PLUGINS), "-I", str(header.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_real_library_takes_the_attributes():
    """What needs no GPU of a libcublasLt that is named by CUBLASLT_LIBRARY, or lies in the wheel."""
    named = os.environ.get("CUBLASLT_LIBRARY", "")
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia"
    candidates = [named, *map(str, wheel.glob("*/lib/libcublasLt.so.1[23]"))]
    path = next((p for p in candidates if p and Path(p).is_file()), None)
    if path is None:
        pytest.skip("this machine has no libcublasLt")
    lib = ctypes.CDLL(path)
    operation, layout, preference = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.cublasLtMatmulDescCreate(ctypes.byref(operation), 68, 0) == 0
    assert lib.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)) == 0
    sizes = ctypes.c_uint64(4096), ctypes.c_uint64(512), ctypes.c_int64(4096)
    assert lib.cublasLtMatrixLayoutCreate(ctypes.byref(layout), 2, *sizes) == 0

    def set_all(function, target, values):
        return [function(target, number, ctypes.byref(v), ctypes.sizeof(v)) for number, v in values.items()]

    attributes = {3: ctypes.c_int32(1), 7: ctypes.c_uint32(4), 8: ctypes.c_uint64(16)}
    assert set_all(lib.cublasLtMatmulDescSetAttribute, operation, attributes) == [0] * 3
    preferences = {1: ctypes.c_uint64(32 << 20), 3: ctypes.c_uint32(2)} | {
        n: ctypes.c_uint32(16) for n in (6, 7, 8)
    }
    assert set_all(lib.cublasLtMatmulPreferenceSetAttribute, preference, preferences) == [0] * 5
    assert set_all(lib.cublasLtMatmulPreferenceSetAttribute, preference, {3: ctypes.c_uint64(2)}) == [7]
