"""The instructions of sm_90a in the interpreter, against the ISA's figures element by element, and each of their faults."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ptx.machine import Machine
from tests.ptx.memory import Memory
from tests.ptx.parser import PtxFault, parse_entry
from tests.ptx.warpgroups import Late
from tests.ptx.wgmma import a_places, metadata_places, sum_places
from tests.refusals import refused

BITS = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
TOKENS = 16
SHARED = 8192  # X from 1024 on, a multiple of 1024 as the interpreter's shared memory begins at 1024


def execute(
    body: str, tensors: dict[str, NDArray[np.generic]], late: Late = Late.ALL, cluster: int = 1, seed: int = 0
) -> Memory:
    """Run a warpgroup, or a cluster of them, whose pointers %rd0, %rd1, ... are the tensors; out is writable."""
    loads = "\n".join(f"ld.param.u64 %rd{i}, [k_param_0+{8 * i}];" for i in range(len(tensors)))
    text = f"""
        .version 8.5 .target sm_90a .address_size 64
        .extern .shared .align 128 .b8 pool[];
        .visible .entry k(.param .align 8 .b8 k_param_0[{8 * len(tensors)}]) .maxntid 128, 1, 1
        .reqnctapercluster {cluster}, 1, 1
        {{
        .reg .pred %p<10>; .reg .b16 %rs<4>; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %rd<40>;
        {loads}
        mov.u32 %r0, %tid.x; mov.u32 %r1, pool; setp.eq.u32 %p0, %r0, 0; setp.eq.u32 %p1, 0, 0;
        {body}
        ret;
        }}"""
    memory = Memory.holding(tensors, ["out"])
    pointers = np.array([memory.address(name) for name in tensors], np.uint64).tobytes()
    Machine(parse_entry(text, "k"), SHARED).launch(cluster, pointers, memory, seed, late)
    return memory


# The matrix in shared memory: a barrier at 0, X from 1024 on.
BARRIER = """@!%p0 bra MADE; mbarrier.init.shared::cta.b64 [%r1], 1; fence.proxy.async.shared::cta; MADE: bar.sync 0;"""
BULK = """@!%p0 bra COPIED; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 2048;
    add.s32 %r2, %r1, 1024;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 2048, [%r1]; COPIED:"""
WAIT = "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;"
LOAD = """mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd10, %rd2; ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd11];
    mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd10, %rd3; ld.global.u32 %r8, [%rd11];""" + "".join(
    f"mov.f32 %f{i}, 0f00000000;" for i in range(8)
)
SUMS = "{" + ",".join(f"%f{i}" for i in range(8)) + "}"
FENCE = "wgmma.fence.sync.aligned;"
FINISH = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
STORE = "mul.wide.u32 %rd10, %r0, 32; add.s64 %rd11, %rd10, %rd0;" + "".join(
    f"st.global.f32 [%rd11+{4 * i}], %f{i};" for i in range(8)
)


def descriptor(offset: int = 0, stride: int = 1024, swizzle: int = 1, base: int = 0) -> str:
    """Sets %rd12 to a descriptor of X; offset: bytes along its rows."""
    constant = swizzle << 62 | base << 49 | (stride >> 4) << 32 | 1 << 16
    start = f"add.s32 %r3, %r1, {1024 + offset}; shr.u32 %r3, %r3, 4; cvt.u64.u32 %rd12, %r3;"
    return f"{start} or.b64 %rd12, %rd12, {constant};"


def product(kind: str, selector: int | None, scales: str = "%p1, 1, 1, 0") -> str:
    form, depth, meta = (".sp", 32, f" %r8, {selector},") if selector is not None else ("", 16, "")
    return (
        f"wgmma.mma_async{form}.sync.aligned.m64n{TOKENS}k{depth}.f32.{kind}.{kind} {SUMS}, "
        f"{{%r4, %r5, %r6, %r7}}, %rd12,{meta} {scales};"
    )


def swizzled(x: NDArray[np.generic]) -> NDArray[np.uint16]:
    """X [tokens, 64] as bytes: chunk q of 16 bytes of row r lies at q ^ (r % 8)."""
    out = np.zeros((len(x), 8, 8), np.uint16)
    for row, chunk in itertools.product(range(len(x)), range(8)):
        out[row, chunk ^ (row % 8)] = x[row, 8 * chunk : 8 * chunk + 8].view(np.uint16)
    return out.reshape(-1)


def registers(values: NDArray[np.generic]) -> NDArray[np.uint16]:
    """A [64, 16] as every thread holds it, by the figure of wgmma's fragment: warp w has rows 16w to 16w + 15."""
    out = np.zeros((128, 8), np.uint16)
    for row, column in itertools.product(range(64), range(16)):
        thread = row // 16 * 32 + row % 8 * 4 + column % 8 // 2
        place = column % 2 + 2 * (row % 16 // 8) + 4 * (column // 8)
        out[thread, place] = values[row, column : column + 1].view(np.uint16)[0]
    return out.reshape(-1)


def sums(memory: Memory) -> NDArray[np.float32]:
    """D [64, tokens] of what every thread stored, by the figure of wgmma's accumulators."""
    held, out = memory.tensor("out", np.float32).reshape(128, 8), np.zeros((64, TOKENS), np.float32)
    for row, column in itertools.product(range(64), range(TOKENS)):
        thread = row // 16 * 32 + row % 8 * 4 + column % 8 // 2
        out[row, column] = held[thread, column % 2 + 2 * (row % 16 // 8) + 4 * (column // 8)]
    return out


def problem(
    kind: str, selector: int | None, seed: int = 0
) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.float64]]:
    """Tensors of a random problem, and W Xᵀ [64, tokens] for W [64, 16], or 2:4 [64, 32]."""
    rng, dtype = np.random.default_rng(seed), BITS[kind]
    kept = rng.standard_normal((64, 16)).astype(dtype)
    x = rng.standard_normal((TOKENS, 64)).astype(dtype)
    words = rng.integers(0, 2**32, 128, dtype=np.uint32)
    weight = kept.astype(np.float64)
    if selector is not None:
        weight = np.zeros((64, 32))
        words[[t for t in range(128) if t % 4 // 2 == selector]] = 0
        for row, chunk in itertools.product(range(64), range(8)):
            first, second = sorted(rng.choice(4, 2, replace=False).tolist())
            weight[row, [4 * chunk + first, 4 * chunk + second]] = kept[row, 2 * chunk : 2 * chunk + 2]
            thread = row // 16 * 32 + row % 8 * 4 + 2 * selector + chunk // 4
            words[thread] |= np.uint32((first | second << 2) << (16 * (row % 16 // 8) + 4 * (chunk % 4)))
    tensors = {
        "out": np.zeros(128 * 8, np.float32), "x": swizzled(x), "w": registers(kept), "meta": words,
    }  # fmt: skip
    return tensors, weight @ x.astype(np.float64)[:, : weight.shape[1]].T


@pytest.mark.parametrize("late", Late)
@pytest.mark.parametrize("selector", [None, 0, 1])
@pytest.mark.parametrize("kind", BITS)
def test_a_product(kind: str, selector: int | None, late: Late) -> None:
    tensors, expected = problem(kind, selector)
    body = BARRIER + BULK + WAIT + LOAD + descriptor() + FENCE + product(kind, selector) + FINISH + STORE
    np.testing.assert_allclose(sums(execute(body, tensors, late)), expected, rtol=1e-5, atol=1e-5)


def test_a_product_of_later_columns_adds() -> None:
    """32 bytes further along the rows are the next 16 columns; a second product of a group adds to the first."""
    tensors, _ = problem("f16", None)
    kept = np.zeros((64, 16), np.float16)
    kept[:, 0] = 1
    tensors["w"] = registers(kept)
    body = BARRIER + BULK + WAIT + LOAD + FENCE
    for step in range(4):
        body += descriptor(32 * step) + product("f16", None)
    rows = tensors["x"].view(np.float16).reshape(TOKENS, 8, 8)
    expected = [sum(float(rows[r, (2 * step) ^ (r % 8), 0]) for step in range(4)) for r in range(TOKENS)]
    got = sums(execute(body + FINISH + STORE, tensors))
    np.testing.assert_allclose(got, np.tile(expected, (64, 1)), rtol=1e-5, atol=1e-5)


def by_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[np.intp]:
    """Numbers of all coordinates, the first of which counts fastest: a layout in the terms of CuTe."""
    coordinates = np.unravel_index(np.arange(np.prod(shape)), shape, order="F")
    return sum(c * stride for c, stride in zip(coordinates, strides, strict=True))


def test_the_places_are_those_of_cutlass() -> None:
    """NVIDIA/cutlass, cute/atom/mma_traits_sm90_gmma.hpp and _sparse.hpp: row + 64 * column by thread and value.

    ALayout_64x16 (A), CLayout_64xN (sums), ALayout_64x32 (kept values, by the four columns they come from), ELayout_64x32
    (metadata; the threads of a quad's two pairs, which the selector tells apart, have stride 0).
    """
    a = by_strides((4, 8, 4, 2, 2, 2), (128, 1, 16, 64, 8, 512)).reshape(8, 128)
    c = by_strides((4, 8, 4, 2, 2, 32), (128, 1, 16, 64, 8, 512)).reshape(128, 128)
    sparse = by_strides((4, 8, 4, 4, 2, 2), (256, 1, 16, 64, 8, 1024)).reshape(4, 4, 128)
    e = by_strides((2, 2, 8, 4, 16, 2), (1024, 0, 1, 16, 64, 8)).reshape(2, 16, 128)
    for i in range(8):
        row, column = a_places(i)
        np.testing.assert_array_equal(row + 64 * column, a[i])
        # Two of each four columns are kept: value i of a thread comes from the four that begin with chunk column // 2.
        fours = sparse[i // 2]
        np.testing.assert_array_equal(row + 64 * 4 * (column // 2), fours.min(0))
    for i in range(128):
        row, column = sum_places(i)
        np.testing.assert_array_equal(row + 64 * column, c[i])
    for row, chunk, selector in itertools.product(range(64), range(8), (0, 1)):
        thread, shift = metadata_places(row, chunk, selector)
        assert thread % 4 // 2 == selector
        assert row + 64 * 4 * chunk == e[shift // 16, shift % 16, thread]


CP_ASYNC = """mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd10, %rd1; shl.b32 %r2, %r0, 4; add.s32 %r2, %r2, %r1;
    cp.async.cg.shared.global [%r2+1024], [%rd11], 16; cp.async.wait_all;"""
ARRIVE = "@!%p0 bra ARRIVED; mbarrier.arrive.shared::cta.b64 _, [%r1]; ARRIVED:"
ARRIVE_ELSEWHERE = """@!%p0 bra ARRIVED; mov.u32 %r9, 0; mapa.shared::cluster.u32 %r11, %r1, %r9;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r11]; ARRIVED:"""
BEFORE = BARRIER + BULK + WAIT + LOAD + descriptor()
ONE = "@!%p0 bra END; mbarrier.init.shared::cta.b64 [%r1], 1;"
FAULTS = {
    "no mbarrier": "mbarrier.arrive.shared::cta.b64 _, [%r1];",
    "more arrivals than a phase has": ONE
    + "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 16; mbarrier.arrive.shared::cta.b64 _, [%r1]; END:",
    "a thread arrives for others that still read": BARRIER + "ld.shared.u32 %r2, [%r1];" + ARRIVE,
    "a thread arrives elsewhere for others that still read": BARRIER + "ld.shared.u32 %r2, [%r1];" + ARRIVE_ELSEWHERE,
    "a part of a warp meets": BARRIER + "setp.lt.u32 %p3, %r0, 7; @%p3 bra END; bar.warp.sync -1; END:",
    "some lanes of a warp meet": BARRIER + "bar.warp.sync 255;",
    "a phase that never ends": BARRIER + WAIT,
    "a parity that is not": BARRIER + "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 2;",
    "a bulk copy of 8 bytes": BARRIER + BULK.replace("2048, [", "8, ["),
    "a bulk copy beyond its tensor": BARRIER + BULK.replace("2048", "4096"),
    "a bulk copy under way at the end": BARRIER + BULK,
    "a product without a fence": BEFORE + product("f16", None) + FINISH,
    "a register written after the fence": BEFORE + FENCE + "add.s32 %r4, %r4, 1;" + product("f16", None) + FINISH,
    "a register written too early": BEFORE + FENCE + product("f16", None) + "add.s32 %r4, %r4, 1;" + FINISH,
    "two shapes under way": BEFORE + FENCE + product("f16", None) + product("f16", 0) + FINISH,
    "products at the end": BEFORE + FENCE + product("f16", None),
    "a part of a warpgroup": BEFORE + "setp.lt.u32 %p3, %r0, 32; @%p3 bra END;" + FENCE + product("f16", None) + FINISH
    + "END:",
    "another swizzle": BARRIER + BULK + WAIT + LOAD + descriptor(swizzle=2) + FENCE + product("f16", None) + FINISH,
    "an offset of the base": BARRIER + BULK + WAIT + LOAD + descriptor(base=1) + FENCE + product("f16", None) + FINISH,
    "columns beyond the row": BARRIER + BULK + WAIT + LOAD + descriptor(112) + FENCE + product("f16", None) + FINISH,
    "a product that does not add": BEFORE + "setp.eq.u32 %p1, 0, 1;" + FENCE + product("f16", None) + FINISH,
    "a negative product": BEFORE + FENCE + product("f16", None, "%p1, -1, 1, 0") + FINISH,
    "a selector that is not": BEFORE + FENCE + product("f16", 2) + FINISH,
    "no proxy fence": CP_ASYNC + "bar.sync 0;" + LOAD + descriptor() + FENCE + product("f16", None) + FINISH,
    "registers of no number": "setmaxnreg.inc.sync.aligned.u32 100;",
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    body = FAULTS[name]
    tensors, _ = problem("f16", None)
    with refused(PtxFault):
        execute(body, tensors)


def test_proxy_fences_show_copies_to_products() -> None:
    tensors, expected = problem("f16", None)
    body = CP_ASYNC + "fence.proxy.async.shared::cta; bar.sync 0;" + LOAD + descriptor() + FENCE
    got = sums(execute(body + product("f16", None) + FINISH + STORE, tensors))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arrive", [ARRIVE, ARRIVE_ELSEWHERE])
def test_threads_arrive_for_their_warp(arrive: str) -> None:
    tensors, _ = problem("f16", None)
    execute(BARRIER + "ld.shared.u32 %r2, [%r1]; bar.warp.sync -1;" + arrive + WAIT, tensors)


def test_unordered_metadata_is_a_fault() -> None:
    tensors, _ = problem("f16", 0)
    tensors["meta"][:] = 0x22222222
    with refused(PtxFault):
        execute(BEFORE + FENCE + product("f16", 0) + FINISH, tensors)


# Block `rank` makes its barrier for one arrival of the other block and 256 bytes from each, and sends its part of X to both.
CLUSTER = """mov.u32 %r9, %cluster_ctarank;
    @!%p0 bra MADE; mbarrier.init.shared::cta.b64 [%r1], 2; fence.mbarrier_init.release.cluster; MADE:
    barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
    @!%p0 bra SENT; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 512;
    xor.b32 %r10, %r9, 1; mapa.shared::cluster.u32 %r11, %r1, %r10;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r11];
    shl.b32 %r12, %r9, 8; add.s32 %r2, %r1, %r12; add.s32 %r2, %r2, 1024;
    mul.wide.u32 %rd10, %r12, 1; add.s64 %rd11, %rd1, %rd10; mov.b16 %rs0, MASK;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r2], [%rd11], 256, [%r1], %rs0;
    SENT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;
    shl.b32 %r3, %r0, 2; add.s32 %r3, %r3, %r1; ld.shared.u32 %r4, [%r3+1024];
    shl.b32 %r5, %r9, 7; add.s32 %r5, %r5, %r0; mul.wide.u32 %rd10, %r5, 4; add.s64 %rd11, %rd0, %rd10;
    st.global.u32 [%rd11], %r4; barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"""


def cluster_tensors() -> dict[str, NDArray[np.generic]]:
    return {"out": np.zeros(256, np.uint32), "x": np.arange(128, dtype=np.uint32)}


@pytest.mark.parametrize("late", Late)
def test_blocks_of_a_cluster_copy_for_each_other(late: Late) -> None:
    for seed in range(8):
        memory = execute(CLUSTER.replace("MASK", "3"), cluster_tensors(), late, 2, seed)
        np.testing.assert_array_equal(memory.tensor("out", np.uint32), np.tile(np.arange(128), 2))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("MASK", "1"),  # block 1 gets nothing
        ("MASK", "7"),
        ("xor.b32 %r10, %r9, 1;", "mov.u32 %r10, 2;"),
        ("xor.b32 %r10, %r9, 1;", "mov.u32 %r10, 0;"),
        pytest.param(
            "barrier.cluster.wait.acquire.aligned;\n    @!%p0 bra SENT;", "@!%p0 bra SENT;", id="no mbarrier"
        ),
        ("%cluster_ctarank;", "%cluster_ctarank; setp.eq.u32 %p3, %r9, 1; @%p3 ret;"),
    ],
)
def test_faults_of_a_cluster(before: str, after: str) -> None:
    assert before in CLUSTER
    body = CLUSTER.replace(before, after, 1).replace("MASK", "3")
    with refused(PtxFault):
        for seed in range(8):
            execute(body, cluster_tensors(), Late.NONE, 2, seed)


def test_a_cluster_is_whole() -> None:
    with refused(PtxFault):
        text = ".visible .entry k(.param .align 8 .b8 p[8]) .maxntid 128, 1, 1 .reqnctapercluster 2, 1, 1 { ret; }"
        Machine(parse_entry(text, "k"), 64).launch(3, bytes(8), Memory.holding({}, ()))
