"""The PTX of the kernel for Hopper, run by the interpreter; results lie within the error bound of float64."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch_compile.plugin.toolchain import describe_toolchain
from tests.mosaics import shapes
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, Case, make_case, without_panels
from tests.plugins.mutations import broken_copy
from tests.ptx.kernel import SCALARS
from tests.ptx.parser import PtxFault
from tests.ptx.warpgroup_kernel import WARPGROUP_CONFIGS, WarpgroupKernel, compile_warpgroups
from tests.ptx.warpgroups import Late

MISSING = [
    item.what for item in describe_toolchain() if not item.found and item.what in ("nvcc", "C++ compiler")
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"to make PTX of the kernels there is no {MISSING}")

CONFIGS = range(len(WARPGROUP_CONFIGS))
config = pytest.mark.parametrize("config", CONFIGS, ids=[c.name for c in WARPGROUP_CONFIGS])
WIDE, NARROW, PAIR = (
    next(i for i in CONFIGS if WARPGROUP_CONFIGS[i].name == name)
    for name in ("hopper-128", "hopper-64", "hopper-pair-128")
)
# Instructions that are asm in ptx.cuh and warpgroup_ptx.cuh.
ASM = re.compile(
    r"wgmma|mbarrier|fence|setmaxnreg|movmatrix|cp\.async|cvt\.(?:rn\.b?f16x2|f32\.f16)|ex2|rcp|bar\.(?:warp\.)?sync"
)


@pytest.fixture(scope="session")
def text(request: pytest.FixtureRequest) -> str:
    return compile_warpgroups(request.config.cache.mkdir("patch-ptx"))


@pytest.fixture(scope="session")
def kernel(text: str) -> WarpgroupKernel:
    return WarpgroupKernel(text)


def case_for(config: int, tokens: int, shape: tuple[int, int], **how: object) -> Case:
    """A problem packed as the configuration wants it; a gate is activated by SiLU."""
    about = WARPGROUP_CONFIGS[config]
    gated = {"gated": True, "activation": "silu"} if about.gated else {}
    return make_case(tokens, shape, about.panel_rows, **(gated | how))


def check(kernel: WarpgroupKernel, case: Case, config: int, late: Late = Late.ALL, seed: int = 0) -> None:
    assert case.worst(kernel.run(case, config, late, seed)) <= 1, (late, seed)


def test_every_configuration_is_there_for_both_types(kernel: WarpgroupKernel) -> None:
    assert len(WARPGROUP_CONFIGS) == 4
    assert set(kernel.entries()) == {(scalar, config) for scalar in range(len(SCALARS)) for config in CONFIGS}


def test_sums_are_pinned_behind_their_last_wait(text: str) -> None:
    """An empty asm statement for every 8 tokens has the sums as operands: nvcc may not read them before the wait."""
    empty = r"\s*// begin inline asm\s*// end inline asm"
    waits = re.findall(rf"wgmma\.wait_group\.sync\.aligned 0;\s*// end inline asm((?:{empty})*)", text)
    blocks = [
        about.tokens // about.token_warps // 8
        for about in WARPGROUP_CONFIGS
        for _ in range(2 * (1 + about.gated))  # loops over dense and over 2:4 slabs, of a gate and of an up
    ]
    assert sorted(len(re.findall(empty, pins)) for pins in waits) == sorted(blocks * len(SCALARS))


# bf16 differs from fp16 in two instructions. `make mutate` runs all cases of bf16; here a part of them runs.
RING = [
    pytest.param(
        i,
        dtype,
        id=f"{c.name}-{dtype}",
        marks=[] if dtype == DTYPES[0] or i == NARROW else pytest.mark.mutation,
    )
    for i, c in enumerate(WARPGROUP_CONFIGS)
    for dtype in DTYPES
]


@pytest.mark.parametrize(("config", "dtype"), RING)
def test_every_ring_position(kernel: WarpgroupKernel, config: int, dtype: np.dtype) -> None:
    """K takes twice the ring and more, with dense, 2:4 and mixed slabs; copies and products come late or early.

    The problems vary ragged K, N (every width of a store of Y) and M, panels, activation, bias and residual. Together they
    run every asm statement of the kernel.
    """
    about = WARPGROUP_CONFIGS[config]
    for n, slabs in enumerate((1, 2, about.stages - 1, about.stages, about.stages + 1, 2 * about.stages + 1)):
        rows = about.panel_rows * (1 + n % 2) - (0, 8, 4, 2, 1)[n % 5]
        tokens = (1, about.tokens * about.cluster + 1, 7, about.tokens, 3, 130)[n]
        case = case_for(
            config, tokens, (rows, 64 * slabs - 4 * (n % 4)), dtype=dtype, share=(0.5, 0.0, 1.0)[n % 3],
            bias=n % 3 > 0, residual=n % 4 > 1, activation=list(ACTIVATIONS)[(n + 1) % 4], seed=n,
        )  # fmt: skip
        check(kernel, case, config, Late(n % 3), seed=n)
    machine = kernel.machine(DTYPES.index(dtype), config)
    missed = [c.text for c, ran in zip(machine.entry.code, machine.ran, strict=True) if not ran]
    assert not [text for text in missed if ASM.match(text)]


@config
def test_empty_panels(kernel: WarpgroupKernel, config: int) -> None:
    """Y is the bias in panels without a slab."""
    rows = WARPGROUP_CONFIGS[config].panel_rows
    if WARPGROUP_CONFIGS[config].gated:
        return  # without_panels is for plain products
    case = case_for(config, 5, (3 * rows, 128), share=0.5, seed=9)
    check(kernel, without_panels(case, np.repeat([False, True, False], rows)), config, Late.SOME)


def with_a_nan(kernel: WarpgroupKernel, case: Case, config: int, late: Late = Late.ALL) -> float:
    """Worst error of the other tokens when X begins with a NaN, which is where empty copies point."""
    x = case.x.copy()
    case.x[0, 0] = np.array(np.nan, case.dtype).view(np.uint16)
    y = kernel.run(case, config, late)
    case.x[...] = x
    reached = np.isnan(y[0].view(case.dtype).astype(np.float32)).any()
    y[0] = case.expected[0].astype(case.dtype).view(np.uint16)
    return case.worst(y) if reached else np.inf


@config
def test_a_nan_stays_in_its_token(kernel: WarpgroupKernel, config: int) -> None:
    """Columns beyond K and tokens beyond M read as zeros, with 8- and with 16-byte copies."""
    for columns in (72, 76):
        case = case_for(config, 3, (20, columns), seed=columns)
        assert with_a_nan(kernel, case, config) <= 1


@pytest.mark.mutation
@settings(max_examples=150, derandomize=True)
@given(
    st.sampled_from(CONFIGS),
    st.sampled_from(DTYPES),
    shapes,
    st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
    st.booleans(),
    st.integers(1, 600),
    st.sampled_from(list(ACTIVATIONS)),
    st.booleans(),
    st.sampled_from(Late),
    st.integers(0, 999),
)
def test_random_maps(
    kernel: WarpgroupKernel,
    config: int,
    dtype: np.dtype,
    shape: tuple[int, int],
    share: float,
    bias: bool,
    tokens: int,
    activation: str,
    residual: bool,
    late: Late,
    seed: int,
) -> None:
    """Random maps and epilogues; blocks, warps, copies and products take turns at random."""
    case = case_for(
        config, tokens, shape, dtype=dtype, share=share, bias=bias, seed=seed, residual=residual, activation=activation,
    )  # fmt: skip
    check(kernel, case, config, late, seed)


Replacement = str | Callable[[re.Match[str]], str]
# name: (nvcc's text, text with the bug)
MUTATIONS: dict[str, tuple[str, Replacement]] = {
    "selectors exchanged": (r"(wgmma\.mma_async\.sp[^;]*\}, \{[^}]*\}, %rd\d+, %r\d+, )([01]),",
        lambda m: f"{m[1]}{1 - int(m[2])},"),
    "a in another order": (r"(wgmma\.mma_async\.sync[^;{]*\{[^}]*\}, \{)([^,]*),([^,]*),", r"\1\3,\2,"),
    "a of 2:4 products in another order": (r"(wgmma\.mma_async\.sp[^;{]*\{[^}]*\}, \{)([^,]*),([^,]*),", r"\1\3,\2,"),
    "sums in another order": (r"(wgmma\.mma_async[^;{]*\{)([^,]*),([^,]*),", r"\1\3,\2,"),
    "sums begin anew": (r"setp\.ne\.b32 %p1, 1, 0", "setp.ne.b32 %p1, 0, 0"),
    "a negated product": (r"%p1, 1, 1, 0;", "%p1, -1, 1, 0;"),
    "X is transposed": (r"%p1, 1, 1, 0;", "%p1, 1, 1, 1;"),
    "the other 16-bit type": (r"f32\.f16\.f16", "f32.bf16.bf16"),
    "a fence before products is missing": (r"wgmma\.fence\.sync\.aligned;", ""),
    "products are not committed": (r"wgmma\.commit_group\.sync\.aligned;", ""),
    "no products are waited for": (r"wgmma\.wait_group\.sync\.aligned 1;", ""),
    "one group of products too many is under way": (r"wgmma\.wait_group\.sync\.aligned 1;",
        "wgmma.wait_group.sync.aligned 2;"),
    "the last products are not waited for": (r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
    "no proxy fence": (r"fence\.proxy\.async\.shared::cta;", ""),
    "one wait for X too few": (r"cp\.async\.wait_group (\d);", lambda m: f"cp.async.wait_group {int(m[1]) + 1};"),
    "copies of X are not committed": (r"cp\.async\.commit_group;", ""),
    "bytes of the slab are not expected": (r"mbarrier\.arrive\.expect_tx\.shared::cta\.b64 _, (\[%r\d+\]), %r\d+;",
        r"mbarrier.arrive.shared::cta.b64 _, \1;"),
    "one arrival too many": (r"(mbarrier\.arrive\.shared::cta\.b64 _, \[%r\d+\];)", r"\1 \1"),
    "no arrivals": (r"mbarrier\.arrive\.shared::cta\.b64 _, \[%r\d+\];", ""),
    "a lane gives a slot back that others still read": (r"bar\.warp\.sync\s+-1;", ""),
    "no waits at barriers": (r"mbarrier\.try_wait\.parity\.shared::cta\.b64 (%p\d+), [^;]*;", r"setp.eq.u32 \1, 0, 0;"),
    "the same phase for ever": (r"(mbarrier\.try_wait\.parity\.shared::cta\.b64 %p\d+, \[%r\d+\]), %r\d+;", r"\1, 0;"),
    "the slab is copied twice": (r"(cp\.async\.bulk[^;]*;)", r"\1 \1"),
    "the slab counts at no barrier": (r"(cp\.async\.bulk[^;]*), \[%r\d+\];", r"\1, [1024];"),
    "reads 8 bytes of what is not there": (r"(cp\.async\.ca[^;]*, 8), %r\d+;", r"\1;"),
    "reads 16 bytes of what is not there": (r"(cp\.async\.cg[^;]*B \[[^;]*, 16), %r\d+;", r"\1;"),
    "output not transposed": (r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16", "mov.b32"),
}  # fmt: skip
# name: (file, correct text, text with the bug)
SOURCES = {
    "another swizzle mode": ("warpgroup_ptx.cuh", "uint64_t{1} << 62", "uint64_t{2} << 62"),
    "rows of 8 another distance apart": ("warpgroup_ptx.cuh", "8 * 128 / 16", "4 * 128 / 16"),
    "the columns before": ("warpgroup_ptx.cuh", "matrix + bytes / 16", "matrix + bytes / 32"),
    "the ring begins anywhere": ("warpgroup_ptx.cuh", "-shared_address(shared) &", "64 -shared_address(shared) &"),
    "X without its swizzle": ("warpgroup_kernel.cuh", "^ (thread / kChunks & 7)", ""),
    "X of other columns": ("warpgroup_kernel.cuh", "column_of(i + 1)", "column_of(i)"),
    "the first tokens twice": ("warpgroup_kernel.cuh", "at.token_warp * G::kWarpTokens", "0 * G::kWarpTokens"),
    "metadata of the values": ("warpgroup_kernel.cuh", "slot + G::kSparseBytes + at", "slot + at"),
    "halves in one register": ("warpgroup_kernel.cuh", "load_shared(weights[half][s],", "load_shared(weights[0][s],"),
    "a slot is given back while its products read it": (
        "warpgroup_kernel.cuh",
        "wait_products<1>();",
        "if (half == 1) last = slots.empty + walk.slot;\n      wait_products<1>();",
    ),
    "the other block is not told": (
        "warpgroup_kernel.cuh", "(lane < G::kCluster) arrive_at(bar, lane);", "(lane < G::kCluster) arrive(bar);",
    ),
    "the other block is not waited for": (
        "warpgroup_kernel.cuh", "G::kThreads / 32 * G::kCluster);", "G::kThreads / 32);",
    ),
    "the same part from both blocks": ("warpgroup_kernel.cuh", "at = cluster_rank() * part;", "at = 0 * part;"),
    "parts for this block alone": (
        "warpgroup_kernel.cuh", "(1 << G::kCluster) - 1);", "1 << cluster_rank());",
    ),
    "the first block's tokens twice": (
        "warpgroup_kernel.cuh", "G::kCluster + rank) * G::kTokens", "G::kCluster) * G::kTokens",
    ),
    "barriers before they are made": (
        "warpgroup_kernel.cuh", "slots.begin();\n  sync_all<G>();", "slots.begin();\n  sync_block();",
    ),
    "the producer does not wait": ("warpgroup_kernel.cuh", "wait_phase(slots.empty + fill.slot, fill.parity ^ 1);", ""),
    "full a slab late": ("warpgroup_kernel.cuh", "kBehind = G::kStages - 2", "kBehind = G::kStages - 1"),
    "one phase too few": ("warpgroup_kernel.cuh", "slot = 0, parity ^= 1", "slot = 0"),
    "the output over the ring": ("warpgroup_kernel.cuh", "  sync_all<G>();  // the output", "  // the output"),
    "no products before the other kind": ("warpgroup_kernel.cuh", "  wait_products<0>();\n", ""),
}  # fmt: skip


def noticed(kernel: WarpgroupKernel) -> bool:
    """True when a battery of runs ends in a fault or a wrong result."""
    for config, tokens, columns, late in (
        (WIDE, 9, 580, Late.ALL), (WIDE, 18, 584, Late.NONE), (NARROW, 140, 708, Late.ALL),
        (PAIR, 270, 452, Late.ALL), (PAIR, 300, 580, Late.SOME),
    ):  # fmt: skip
        case = case_for(config, tokens, (WARPGROUP_CONFIGS[config].panel_rows - 3, columns), seed=tokens)
        try:
            if case.worst(kernel.run(case, config, late)) > 1 or with_a_nan(kernel, case, config, late) > 1:
                return True
        except PtxFault:
            return True
    return False


def test_the_unchanged_kernel_passes_all_checks(kernel: WarpgroupKernel) -> None:
    assert not noticed(kernel)


@pytest.mark.mutation
@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_ptx_is_noticed(text: str, name: str) -> None:
    pattern, replacement = MUTATIONS[name]
    broken = re.sub(pattern, replacement, text)
    assert broken != text, "the mutation no longer fits what nvcc writes"
    assert noticed(WarpgroupKernel(broken))


@pytest.mark.mutation
@pytest.mark.parametrize("name", SOURCES)
def test_a_broken_kernel_is_noticed(tmp_path: Path, name: str) -> None:
    file, correct, broken = SOURCES[name]
    plugins = broken_copy(tmp_path, ("kernels",), (f"kernels/{file}", correct, broken))
    assert noticed(WarpgroupKernel(compile_warpgroups(tmp_path, plugins)))
