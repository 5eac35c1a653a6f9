"""PTX of the kernels for w8a8, run by the interpreter: X is rounded as the oracle rounds it, and Y has the exact bits."""

from __future__ import annotations

import itertools
import re
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.oracles.int8_products import LEAST, quantise_inputs
from tests.plugins.configs import ALL, BYTES, case_for
from tests.plugins.host_kernel import HostKernel, Launch
from tests.plugins.machine_code import NO_CODE, WHY_NO_CODE, ptx_text
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, Case
from tests.ptx.kernel import BYTE_SOURCE, SCALARS, PtxKernel
from tests.ptx.parser import PtxFault
from tests.ptx.test_kernels import ASM

pytestmark = pytest.mark.skipif(NO_CODE, reason=WHY_NO_CODE)

# `make mutate` runs the others.
OFTEN = {"w8a8-decode-64", "w8a8-prefill-64"}
scalars = pytest.mark.parametrize("scalar", range(len(SCALARS)), ids=SCALARS)


@pytest.fixture(scope="session")
def ptx(byte_kernel: HostKernel) -> PtxKernel:
    return PtxKernel(byte_kernel, dict.fromkeys(range(len(SCALARS)), ptx_text(BYTE_SOURCE)))


def run(ptx: PtxKernel, case: Case, config: str, parts: int = 1, seed: int = 0) -> NDArray[np.uint16]:
    launch = Launch(ALL.index(config), DTYPES.index(case.dtype), parts, seed=seed)
    return ptx.run(case.packed, case.x, case.bias, launch, **case.epilogue)


def is_right(case: Case, y: NDArray[np.uint16]) -> bool:
    return case.worst(y) <= 1 if case.bits is None else bool((y == case.bits).all())


@pytest.mark.parametrize(
    "config", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.mutation) for name in BYTES]
)
def test_every_instruction_and_the_exact_bits(ptx: PtxKernel, byte_kernel: HostKernel, config: str) -> None:
    """K has more slabs than the ring has slots, of both kinds, only dense or only 2:4; N, K and M are ragged.

    The two types of X share their products, and each has conversions of its own.
    """
    assert sorted(ptx.entries(0)) == [ALL.index(name) for name in BYTES]
    about = byte_kernel.configs()[config]
    cases = itertools.product(enumerate([(0.5, 1), (0.0, 2), (1.0, 1), (0.7, 3)]), range(len(SCALARS)))
    for (n, (share, parts)), scalar in cases:
        shape = (about.panel_rows - (0, 4, 2, 1)[n], 64 * (2 * about.stages, 3, 3, 11)[n] - (0, 4, 0, 8)[n])
        case = case_for(
            byte_kernel, config, (7, about.tokens + 1, 3, about.tokens)[n], shape, dtype=DTYPES[scalar], share=share,
            bias=n % 2 > 0, residual=n > 1, activation=list(ACTIVATIONS)[n], seed=n,
        )  # fmt: skip
        assert is_right(case, run(ptx, case, config, parts, seed=n)), n
    machines = [ptx.machine(scalar, ALL.index(config)) for scalar in range(len(SCALARS))]
    missed = [
        c.text
        for c, *ran in zip(machines[0].entry.code, *(m.ran for m in machines), strict=True)
        if not any(ran)
    ]
    assert not [text for text in missed if ASM.match(text)]


def values_of(dtype: np.dtype, tokens: int, columns: int) -> NDArray[np.uint16]:
    """Bits of X [tokens, columns]: rows of all sizes, also of ties, subnormal numbers and zeros."""
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((tokens, columns), np.float32)
    x *= np.exp2(rng.integers(-12, 12, (tokens, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.round(x[1] * 4) + 0.5  # of a row whose largest is 127, products with 127 / 127 are ties
    x[1, 0] = -127
    x[2] = 2.0**-24 * (1 + np.arange(columns) % 3)  # subnormal in fp16
    x[3, columns // 2] = -x[3].max() * 4  # the largest is negative
    if dtype == ml_dtypes.bfloat16:
        x[4], x[5] = 2.0**-101, 2.0**-100
        x[6] = 2.0**120
    return x.astype(dtype).view(np.uint16)


@scalars
@pytest.mark.parametrize("columns", [4, 60, 64, 68, 520, 1028, 2052, 4100, 9000])
def test_inputs_are_rounded_as_the_oracle_rounds_them(ptx: PtxKernel, scalar: int, columns: int) -> None:
    """Columns behind the last are zeros. Some warps share a row, and threads of a long row have many columns."""
    dtype = DTYPES[scalar]
    x = values_of(dtype, 9, columns)
    integers, scales = ptx.round(x, scalar)
    expected, of_tokens = quantise_inputs(x.view(dtype))
    np.testing.assert_array_equal(integers[:, :columns], expected)
    assert not integers[:, columns:].any()
    counted = np.abs(x.view(dtype).astype(np.float32)).max(1) >= LEAST
    np.testing.assert_array_equal(scales[counted], of_tokens[counted])
    assert np.isfinite(scales).all()


@scalars
def test_every_number_is_rounded_to_its_integer(ptx: PtxKernel, scalar: int) -> None:
    """All finite numbers of the type, in rows whose largest numbers differ."""
    dtype = DTYPES[scalar]
    numbers = np.arange(2**16, dtype=np.uint16)
    values = numbers.view(dtype).astype(np.float32)
    finite = values[np.isfinite(values)]
    x = np.zeros((-(-len(finite) // 252), 256), np.float32)
    ordered = finite[np.argsort(np.abs(finite), kind="stable")]
    for row, part in zip(x, np.split(ordered, range(252, len(ordered), 252)), strict=True):
        row[: len(part)] = part
    x[:, 252] = 1.5 * np.minimum(np.abs(x).max(1), np.abs(finite).max() / 1.5)
    rounded = x.astype(dtype)
    integers, _ = ptx.round(rounded.view(np.uint16), scalar)
    np.testing.assert_array_equal(integers, quantise_inputs(rounded)[0])


# name: (nvcc's text, text with the bug)
IMMA = r"(mma\.sync[^;{]*\{[^}]*\}, \{[^}]*\}, )\{([^,]*), ?([^}]*)\}"
DENSE, SPARSE = r"(mma\.sync[^;{]*\{[^}]*\}, )", r"(mma\.sp[^;{]*\{[^}]*\}, )"
FOUR = r"\{([^,}]*), ?([^,}]*), ?([^,}]*), ?([^,}]*)\}"
MUTATIONS = {
    "operands of X in another order": (IMMA, r"\1{\3, \2}"),
    "a of mma in another order": (DENSE + FOUR, r"\1{\3, \2, \4, \5}"),
    "K halves of a exchanged": (DENSE + FOUR, r"\1{\4, \5, \2, \3}"),
    "a of mma.sp in another order": (SPARSE + FOUR, r"\1{\3, \2, \4, \5}"),
    "K halves of mma.sp exchanged": (SPARSE + FOUR, r"\1{\4, \5, \2, \3}"),
    "b of mma.sp in another order": (SPARSE + r"(\{[^}]*\}, \{)([^,}]*), ?([^,}]*)", r"\1\2\4, \3"),
    "b of mma.sp is a": (SPARSE + r"(\{[^}]*\}), \{[^}]*\}", r"\1\2, \2"),
    "sums are lost": (r"(mma\.sync[^;{]*\{[^}]*\}, \{[^}]*\}, \{[^}]*\}, )\{[^}]*\}", r"\1{0, 0, 0, 0}"),
    "sums of 2:4 are lost": (SPARSE + r"(\{[^}]*\}, \{[^}]*\}, )\{[^}]*\}", r"\1\2{0, 0, 0, 0}"),
    "middle windows of 6:8 a byte further": (r"(mov\.[bu]32\s+%r\d+, )21554;", r"\g<1>25923;"),
    "sums have no sign": (r"cvt\.rn\.f32\.s32", "cvt.rn.f32.u32"),
    "integers are cut": (r"cvt\.rni\.s32\.f32", "cvt.rzi.s32.f32"),
    "integers are rounded down": (r"cvt\.rni\.s32\.f32", "cvt.rmi.s32.f32"),
    "quotients are turned over": (r"div\.rn\.f32\s+(%f\d+), ([^,]+), ([^;]+);", r"div.rn.f32 \1, \3, \2;"),
    "metadata of the first two": (r"(mma\.sp[^;]*\}, )%r\d+, 0x0;", r"\g<1>0x44444444, 0x0;"),
    "the sign counts": (r"and\.b32\s+(%r\d+), (%r\d+), 32767;", r"mov.u32 \1, \2;"),
    "the largest of a warp's quarter": (r"(xor\.b32\s+%r\d+, %r\d+, )16;", r"\g<1>0;"),
}  # fmt: skip


@cache
def _battery(kernel: HostKernel) -> tuple[Case, ...]:
    shapes = ((64, 640), (60, 196))
    return tuple(
        case_for(kernel, "w8a8-decode-64", 5, shape, share=0.5, activation="", seed=n)
        for n, shape in enumerate(shapes)
    )


@pytest.mark.mutation
@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_ptx_is_caught(ptx: PtxKernel, byte_kernel: HostKernel, name: str) -> None:
    pattern, broken = MUTATIONS[name]
    changed, count = re.subn(pattern, broken, ptx.texts[0])
    assert count > 0
    kernel = PtxKernel(byte_kernel, {0: changed})
    assert kernel.machine(0, ALL.index("w8a8-decode-64")) and kernel.rounding(0)  # the instructions are known
    assert not all(_is_right_or_faults(kernel, case) for case in _battery(byte_kernel))


def _is_right_or_faults(kernel: PtxKernel, case: Case) -> bool:
    try:
        return is_right(case, run(kernel, case, "w8a8-decode-64", parts=2))
    except PtxFault:
        return False
