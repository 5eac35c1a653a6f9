"""The PTX interpreter: each instruction against Python's arithmetic or the ISA's figures, and each of its faults."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ptx.instructions import BITS, Tensors, execute
from tests.ptx.parser import PtxFault
from tests.ptx.state import dtype_of
from tests.refusals import refused

REGISTER = {"16": "%rs", "32": "%r", "64": "%rd"}


def register(kind: str, number: int) -> str:
    stem = "%f" if kind == "f32" else REGISTER[kind.lstrip("busf")]
    return f"{stem}{20 + number}" if stem != "%rs" else f"%rs{number}"


def apply(opcode: str, result: str, sources: list[tuple[str, object]]) -> NDArray[np.generic]:
    """Run an instruction on 32 lanes; a source is (type, array [32]), or (type, text of a constant)."""
    tensors: Tensors = {"out": np.zeros(32, dtype_of(result))}
    lines, operands = ["mul.wide.u32 %rd10, %r0, 2;"], [register(result, 0)]
    for i, (kind, values) in enumerate(sources):
        if isinstance(values, str):
            operands.append(values)
            continue
        name = f"in{i}"
        tensors[name] = np.asarray(values, dtype_of(kind))
        size, place = dtype_of(kind).itemsize, register(kind, i + 1)
        lines.append(f"mad.lo.s64 %rd11, %rd10, {size // 2}, %rd{len(tensors) - 1};")
        lines.append(f"ld.global.{kind} {place}, [%rd11];")
        operands.append(place)
    size = dtype_of(result).itemsize
    lines.append(f"{opcode} {', '.join(operands)};")
    lines.append(f"mad.lo.s64 %rd11, %rd10, {size // 2}, %rd0;\nst.global.{result} [%rd11], {operands[0]};")
    return execute("\n".join(lines), tensors).tensor("out", dtype_of(result))


def integers(kind: str, seed: int) -> NDArray[np.generic]:
    """Random integers of every magnitude, and the ends of the range."""
    rng, limits = np.random.default_rng(seed), np.iinfo(dtype_of(kind))
    ends = [limits.min, limits.max, 0, 1, limits.max // 2, 7]
    bits = int(limits.bits)
    values = [int.from_bytes(rng.bytes(8), "little") >> int(rng.integers(64 - bits, 64)) for _ in range(26)]
    wrapped = [
        (v + limits.min) % 2**bits - (2**bits if (v + limits.min) % 2**bits > limits.max else 0)
        for v in values
    ]
    return np.array(ends + wrapped, dtype_of(kind))[rng.permutation(32)]


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return -quotient if (a < 0) != (b < 0) else quotient


BINARY: dict[str, tuple[str, str, Callable[[int, int], int]]] = {
    "add.s32": ("s32", "s32", lambda a, b: a + b),
    "sub.s64": ("s64", "s64", lambda a, b: a - b),
    "mul.lo.s64": ("s64", "s64", lambda a, b: a * b),
    "mul.wide.s32": ("s32", "s64", lambda a, b: a * b),
    "mul.wide.u32": ("u32", "u64", lambda a, b: a * b),
    "div.s32": ("s32", "s32", truncated),
    "div.s64": ("s64", "s64", truncated),
    "div.u32": ("u32", "u32", lambda a, b: a // b),
    "min.s32": ("s32", "s32", min),
    "max.u32": ("u32", "u32", max),
    "and.b64": ("b64", "b64", lambda a, b: a & b),
    "or.b32": ("b32", "b32", lambda a, b: a | b),
    "xor.b32": ("b32", "b32", lambda a, b: a ^ b),
}  # fmt: skip


@pytest.mark.parametrize("opcode", BINARY)
def test_integer_arithmetic(opcode: str) -> None:
    source, result, function = BINARY[opcode]
    a, b = integers(source, 1), integers(source, 2)
    if opcode.startswith("div"):
        b = np.where(b == 0, 3, b).astype(b.dtype)
    got = apply(opcode, result, [(source, a), (source, b)])
    bits = 8 * got.itemsize
    assert [int(v) % 2**bits for v in got] == [
        function(int(x), int(y)) % 2**bits for x, y in zip(a, b, strict=True)
    ]


@pytest.mark.parametrize("kind", ["b32", "s32", "u32", "b64", "s64", "u64"])
def test_shifts_are_clamped(kind: str) -> None:
    a, bits = integers(kind, 3), int(kind[1:])
    amount = np.arange(32, dtype=np.uint32) * 3
    got = apply(f"{'shl' if kind[0] == 'b' else 'shr'}.{kind}", kind, [(kind, a), ("u32", amount)])
    if kind[0] == "b":
        expected = [(int(v) << int(n)) % 2**bits for v, n in zip(a, amount, strict=True)]
    else:
        expected = [int(v) >> int(n) for v, n in zip(a, amount, strict=True)]
    assert got.tolist() == expected


def test_integers_of_other_forms() -> None:
    a, b, c = (integers("s32", seed) for seed in (4, 5, 6))
    ints = [a.tolist(), b.tolist(), c.tolist()]
    got = apply("mad.lo.s32", "s32", [("s32", a), ("s32", b), ("s32", c)])
    assert [v % 2**32 for v in got.tolist()] == [(x * y + z) % 2**32 for x, y, z in zip(*ints, strict=True)]
    u, w = a.view(np.uint32), b.view(np.uint32)
    got = apply("bfi.b32", "b32", [("b32", u), ("b32", w), ("u32", "4"), ("u32", "28")])
    assert got.tolist() == [(x << 4 | y & 15) % 2**32 for x, y in zip(u.tolist(), w.tolist(), strict=True)]
    assert apply("popc.b32", "u32", [("b32", u)]).tolist() == [bin(x).count("1") for x in u.tolist()]
    got = apply("prmt.b32", "b32", [("b32", u), ("b32", w), ("b32", "0x7610")])
    assert got.tolist() == [x & 0xFFFF | y & 0xFFFF0000 for x, y in zip(u.tolist(), w.tolist(), strict=True)]
    got = apply("prmt.b32", "b32", [("b32", u), ("b32", w), ("b32", "0xBBBB")])
    assert got.tolist() == [2**32 - 1 if x >> 31 else 0 for x in u.tolist()]
    v = c.view(np.uint32)
    got = apply("lop3.b32", "b32", [("b32", u), ("b32", w), ("b32", v), ("b32", "0xea")])
    assert got.tolist() == (u & w | v).tolist()
    got = apply("lop3.b32", "b32", [("b32", u), ("b32", w), ("b32", v), ("b32", "0xca")])
    assert got.tolist() == (u & w | ~u & v).tolist()
    assert apply("cvt.s64.s32", "s64", [("s32", a)]).tolist() == ints[0]
    assert apply("cvt.u64.u32", "u64", [("u32", u)]).tolist() == u.tolist()
    wide = integers("s64", 7)
    assert apply("cvt.u32.u64", "u32", [("s64", wide)]).tolist() == [v % 2**32 for v in wide.tolist()]
    assert apply("cvt.s64.s32", "s64", [("s64", wide)]).tolist() == [
        (v + 2**31) % 2**32 - 2**31 for v in wide.tolist()
    ]


def floats(seed: int, scale: int = 20) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.ldexp(rng.standard_normal(32), rng.integers(-scale, scale, 32)).astype(np.float32)


def test_fma_rounds_once() -> None:
    a, b = floats(1), floats(2)
    c = (-(a.astype(np.float64) * b) * (1 + 2.0**-20)).astype(np.float32)
    c[::3] = floats(3)[::3]
    got = apply("fma.rn.f32", "f32", [("f32", a), ("f32", b), ("f32", c)])
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        neighbours = [float(np.nextafter(r, np.float32(to))) for to in (-np.inf, np.inf)]
        assert all(abs(Fraction(float(r)) - exact) <= abs(Fraction(n) - exact) for n in neighbours)


@pytest.mark.parametrize(
    ("opcode", "function", "granted"),
    [("ex2.approx.ftz.f32", lambda x: 2.0**x, 2.0**-22), ("rcp.approx.ftz.f32", lambda x: 1 / x, 2.0**-23)],
)
def test_approximations_err_as_much_as_granted(
    opcode: str, function: Callable[[float], float], granted: float
) -> None:
    x = np.abs(floats(5, 6))
    got = apply(opcode, "f32", [("f32", x)]).astype(np.float64)
    exact = np.array([function(float(v)) for v in x])
    error = np.abs(got / exact - 1).max()
    assert granted / 2 < error <= granted + 2.0**-24


def test_ftz_makes_subnormals_zeros() -> None:
    assert (apply("rcp.approx.ftz.f32", "f32", [("f32", np.full(32, -1e-40))]) == -np.inf).all()


def test_floats_of_other_forms() -> None:
    a, b = floats(8), floats(9)
    special = np.array([np.nan, 0.0, -0.0, np.inf, 1e-40, 3.0], np.float32)
    a[:6], b[:6] = special, [2.0, -0.0, 0.0, np.nan, 1.0, np.nan]
    two: list[tuple[str, object]] = [("f32", a), ("f32", b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient = a / b
    np.testing.assert_array_equal(apply("div.rn.f32", "f32", two), quotient)
    np.testing.assert_array_equal(apply("neg.f32", "f32", two[:1]), -a)
    np.testing.assert_array_equal(apply("mul.f32", "f32", [*two[:1], ("f32", "0f40000000")]), 2 * a)
    whole = np.array([*(np.arange(-14, 14) / 4), 3e9, -3e9, np.nan, np.inf], np.float32)
    got = apply("cvt.rzi.s32.f32", "s32", [("f32", whole)]).tolist()
    assert got == [int(v / 4) for v in range(-14, 14)] + [2**31 - 1, -(2**31), 0, 2**31 - 1]


@pytest.mark.parametrize("kind", BITS)
def test_rounding_to_16_bits(kind: str) -> None:
    a, b = floats(10, 30), floats(11, 30)
    a[:8] = [65519.99, 65520, -65520, np.inf, 2.0**-25, 3 * 2.0**-25, -0.0, 1 + 2.0**-8]
    with np.errstate(over="ignore"):
        high, low = (v.astype(BITS[kind]).view(np.uint16).astype(np.uint32) for v in (a, b))
    got = apply(f"cvt.rn.{kind}x2.f32", "b32", [("f32", a), ("f32", b)])
    np.testing.assert_array_equal(got, high << np.uint32(16) | low)
    a[0] = np.nan
    assert apply(f"cvt.rn.{kind}x2.f32", "b32", [("f32", a), ("f32", b)])[0] >> 16 == 0x7FFF


@pytest.mark.parametrize("test", ["eq", "lt", "le", "gt", "ge"])
def test_comparisons_with_a_nan_are_false(test: str) -> None:
    a, b = floats(12), floats(13)
    a[::4], b[::5], b[1] = np.nan, np.nan, a[1]
    tensors: Tensors = {"a": a, "b": b, "out": np.zeros(32, np.uint32)}
    body = f"""mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd10, %rd0; add.s64 %rd12, %rd10, %rd1;
        add.s64 %rd13, %rd10, %rd2; ld.global.f32 %f1, [%rd11]; ld.global.f32 %f2, [%rd12];
        setp.{test}.f32 %p1, %f1, %f2; selp.u32 %r1, 1, 0, %p1; st.global.u32 [%rd13], %r1;"""
    expected = getattr(operator, test)(a, b)
    np.testing.assert_array_equal(execute(body, tensors).tensor("out", np.uint32), expected)


# Divergence and barriers


def test_threads_part_and_meet() -> None:
    """Threads loop unequally, branch to later code and back, and return early; afterwards warps are whole again."""
    body = """
        mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd10, %rd0;
        mov.u32 %r1, 0; mov.u32 %r2, 0; and.b32 %r3, %r0, 7;
        LOOP: add.s32 %r1, %r1, %r2; add.s32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r3; @%p1 bra LOOP;
        and.b32 %r4, %r0, 1; setp.eq.u32 %p2, %r4, 1; @%p2 bra FAR;
        add.s32 %r1, %r1, 100;
        NEAR: shfl.sync.idx.b32 %r5|%p3, %r4, 1, 31, -1; add.s32 %r1, %r1, %r5;
        @!%p2 bra DONE;
        { .reg .pred %p2; setp.lt.u32 %p2, %r0, 32; @%p2 ret; }
        @%p2 add.s32 %r1, %r1, 1000;
        DONE: st.global.u32 [%rd11], %r1; bra.uni END;
        FAR: add.s32 %r1, %r1, 200; bra NEAR;
        END:"""
    got = execute(body, {"out": np.zeros(64, np.int32)}, threads=64).tensor("out", np.int32)
    triangle = [t % 8 * (t % 8 + 1) // 2 + 1 for t in range(64)]
    expected = [s + (100 if t % 2 == 0 else 0 if t < 32 else 1200) for t, s in enumerate(triangle)]
    assert got.tolist() == [0 if t % 2 and t < 32 else e for t, e in enumerate(expected)]


def test_a_barrier_tells_all_votes() -> None:
    body = """
        setp.eq.u32 %p1, %r0, 5; bar.red.or.pred %p2, 0, %p1; bar.red.and.pred %p3, 0, !%p1;
        selp.u32 %r1, 1000, 0, %p2; selp.u32 %r2, 2000, 0, %p3; add.s32 %r1, %r1, %r2;
        mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd10, %rd0; st.global.u32 [%rd11], %r1;"""
    got = execute(body, {"out": np.zeros(64, np.int32)}, threads=64).tensor("out", np.int32)
    assert set(got.tolist()) == {1000}


def test_shuffles_take_five_bits_of_lane() -> None:
    body = """
        xor.b32 %r1, %r0, 5; or.b32 %r2, %r1, 96; mul.lo.s32 %r3, %r0, 10;
        shfl.sync.idx.b32 %r4|%p1, %r3, %r2, 31, -1; selp.u32 %r5, 1, 0, %p1; add.s32 %r4, %r4, %r5;
        mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd10, %rd0; st.global.u32 [%rd11], %r4;"""
    got = execute(body, {"out": np.zeros(64, np.int32)}, threads=64).tensor("out", np.int32)
    assert got.tolist() == [10 * (t ^ 5) + 1 for t in range(64)]


def test_blocks_share_global_memory() -> None:
    body = "setp.ne.u32 %p1, %r0, 0; mov.u32 %r1, %ctaid.x; @!%p1 atom.acq_rel.gpu.global.add.u32 %r2, [%rd0], %r1;"
    assert execute(body, {"out": np.zeros(1, np.int32)}, blocks=5).tensor("out", np.int32)[0] == 10


# Pending copies


def copied(body: str) -> NDArray[np.uint32]:
    """Words of shared memory at the end of `body`, which follows two copies of 1 and 2 to two places."""
    start = """
        mov.u32 %r1, pool; setp.eq.u32 %p1, %r0, 0; add.s64 %rd10, %rd0, 16; mov.u32 %r5, 16; mov.u32 %r6, 0;
        @!%p1 bra END;
        cp.async.cg.shared.global [%r1], [%rd0], 16, %r5; cp.async.commit_group;
        cp.async.cg.shared.global [%r1+16], [%rd10], 16; cp.async.commit_group;
    """
    end = "ld.shared.u32 %r2, [%r1]; ld.shared.u32 %r3, [%r1+16]; st.global.v2.u32 [%rd1], {%r2, %r3};\nEND:"
    tensors: Tensors = {"in": np.repeat(np.array([1, 2], np.uint32), 4), "out": np.zeros(2, np.uint32)}
    return execute(start + body + end, tensors, shared=64).tensor("out", np.uint32)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", [0xFFFFFFFF, 0xFFFFFFFF]),
        ("cp.async.wait_group 2;", [0xFFFFFFFF, 0xFFFFFFFF]),
        ("cp.async.wait_group 1;", [1, 0xFFFFFFFF]),
        ("cp.async.wait_group 0;", [1, 2]),
        ("cp.async.ca.shared.global [%r1], [%rd0], 8, %r6; cp.async.wait_group 0;", [1, 2]),
        (
            "cp.async.ca.shared.global [%r1], [%rd0], 8, %r6; cp.async.commit_group; cp.async.wait_group 0;",
            [0, 2],
        ),
        ("cp.async.commit_group; cp.async.wait_group 1;", [1, 2]),
    ],
)
def test_copies_land_when_waited_for(body: str, expected: list[int]) -> None:
    assert copied(body).tolist() == expected


FAULTS = {
    "an unknown opcode": "frobnicate.s32 %r1, %r0;",
    "an unknown modifier": "add.sat.s32 %r1, %r0, 1;",
    "an unknown instruction that does not run": "bra END; add.cc.s32 %r1, %r0, 1; END:",
    "an unknown directive": ".local .b8 x[4];",
    "an unknown register": "mov.u32 %r1, %clock;",
    "a register of another width": "mov.u32 %rd10, %r0;",
    "an unknown label": "bra NOWHERE;",
    "beyond a tensor": "add.s64 %rd10, %rd0, 128; ld.global.u32 %r1, [%rd10];",
    "far beyond": "ld.global.u32 %r1, [%rd10];",
    "a vector across the end": "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1];",
    "not aligned": "add.s64 %rd10, %rd0, 4; ld.global.v2.u32 {%r1, %r2}, [%rd10];",
    "writes a constant": "st.global.u32 [%rd0], %r0;",
    "a cached load of what is written": "ld.global.nc.u32 %r1, [%rd1];",
    "beyond shared memory": "mov.u32 %r1, pool; ld.shared.u32 %r2, [%r1+64];",
    "a copy beyond": "mov.u32 %r1, pool; add.s64 %rd10, %rd0, 128; cp.async.cg.shared.global [%r1], [%rd10], 16;",
    "a copy of a size that is not": "mov.u32 %r1, pool; cp.async.cg.shared.global [%r1], [%rd0], 8;",
    "a division by zero": "mov.u32 %r1, 0; div.u32 %r2, %r0, %r1;",
    "a parameter beyond": "ld.param.u64 %rd10, [k_param_0+16];",
    "a part of a warp shuffles": "setp.lt.u32 %p1, %r0, 7; @%p1 bra END; shfl.sync.idx.b32 %r1|%p2, %r0, 3, 31, -1; END:",
    "a shuffle in segments": "shfl.sync.idx.b32 %r1|%p2, %r0, 3, 4127, -1;",
    "a shuffle of some lanes": "shfl.sync.idx.b32 %r1|%p2, %r0, 3, 31, 255;",
    "a part of the block waits": "setp.lt.u32 %p1, %r0, 32; @%p1 bra END; bar.sync 0; END:",
    "two barriers": "setp.lt.u32 %p1, %r0, 32; @%p1 bra A; bar.sync 0; bra END; A: bar.sync 1; END:",
    "a warp parted at a barrier": "setp.lt.u32 %p1, %r0, 7; @%p1 bra A; bar.sync 0; bra END; A: bar.sync 0; END:",
    "no end": "LOOP: bra LOOP;",
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    with refused(PtxFault):
        execute(
            FAULTS[name],
            {"in": np.zeros(32, np.uint32), "out": np.zeros(2, np.uint32)},
            threads=64,
            shared=64,
        )
