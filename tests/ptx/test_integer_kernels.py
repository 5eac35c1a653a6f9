"""PTX of the kernels for weights of integers, run by the interpreter; results lie within the error bound of float64."""

import re

import numpy as np
import pytest

from tests.oracles.element_packing import KEPT
from tests.plugins.configs import ALL, INTEGERS, case_for
from tests.plugins.host_kernel import HostKernel, Launch
from tests.plugins.machine_code import NO_CODE, WHY_NO_CODE, ptx_text
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, Case
from tests.ptx.instructions import execute
from tests.ptx.kernel import INTEGER_SOURCES, SCALARS, PtxKernel
from tests.ptx.parser import PtxFault
from tests.ptx.test_kernels import ASM

pytestmark = pytest.mark.skipif(NO_CODE, reason=WHY_NO_CODE)

# What the decoders are made of, besides the kernels' other asm.
CONVERSIONS = re.compile(r"prmt|lop3|fma\.rn\.f16x2|add\.rn\.f16x2|mul\.rn\.f16x2|fma\.rn\.bf16x2|shfl")
# `make mutate` runs the others.
OFTEN = {("int4-decode-64", 1), ("int4-mid-64", 1)}


@pytest.fixture(scope="session")
def ptx(kernel: HostKernel) -> dict[tuple[str, int], PtxKernel]:
    """Interpreted kernels by the type of integers and the number of X's type, compiled when they are asked for."""
    return _Compiled(kernel)


class _Compiled(dict[tuple[str, int], PtxKernel]):
    def __init__(self, host: HostKernel) -> None:
        super().__init__()
        self._host = host

    def __missing__(self, key: tuple[str, int]) -> PtxKernel:
        integers, scalar = key
        source = INTEGER_SOURCES[scalar][("int8", "int4").index(integers)]
        self[key] = PtxKernel(self._host, {scalar: ptx_text(source)})
        return self[key]


def check(
    ptx: dict[tuple[str, int], PtxKernel], case: Case, config: str, parts: int = 1, seed: int = 0
) -> None:
    scalar = DTYPES.index(case.dtype)
    launch = Launch(ALL.index(config), scalar, parts, seed=seed)
    y = ptx[config[:4], scalar].run(case.packed, case.x, case.bias, launch, **case.epilogue)
    assert case.worst(y) <= 1, (parts, seed)


kernels = pytest.mark.parametrize(
    ("config", "scalar"),
    [
        pytest.param(config, scalar, marks=[] if (config, scalar) in OFTEN else pytest.mark.mutation)
        for config in INTEGERS
        for scalar in range(len(SCALARS))
    ],
)


@kernels
def test_all_kinds_and_every_instruction(
    ptx: dict[tuple[str, int], PtxKernel], kernel: HostKernel, config: str, scalar: int
) -> None:
    """K has more slabs than the ring has slots, of all kinds, only dense or only 2:4; N, K and M are ragged."""
    assert sorted(ptx[config[:4], scalar].entries(scalar)) == [
        n for n, name in enumerate(ALL) if name[:4] == config[:4]
    ]
    tokens = kernel.configs()[config].tokens
    for n, (share, only, parts) in enumerate([(1.0, 0, 1), (0.0, 0, 2), (1.0, 1, 1), (0.9, 0, 3)]):
        shape = (64 - (0, 4, 2, 1)[n], 64 * (20, 3, 3, 11)[n] - (0, 4, 0, 8)[n])
        case = case_for(
            kernel, config, (7, tokens + 1, 3, tokens)[n], shape, dtype=DTYPES[scalar], share=share, only=only,
            bias=n % 2 > 0, residual=n > 1, activation=list(ACTIVATIONS)[n], seed=n,
        )  # fmt: skip
        if n == 0:
            assert all(case.packed.counts[1:])
        check(ptx, case, config, parts, seed=n)
    machine = ptx[config[:4], scalar].machine(scalar, ALL.index(config))
    missed = [c.text for c, ran in zip(machine.entry.code, machine.ran, strict=True) if not ran]
    assert not [text for text in missed if ASM.match(text) or CONVERSIONS.match(text)]


@kernels
@pytest.mark.mutation
def test_each_kind_alone(
    ptx: dict[tuple[str, int], PtxKernel], kernel: HostKernel, config: str, scalar: int
) -> None:
    for kind in range(1, len(KEPT)):
        case = case_for(kernel, config, 5, (64, 192), dtype=DTYPES[scalar], share=1.0, only=kind, seed=kind)
        check(ptx, case, config, seed=kind)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_sums_and_products_of_pairs_are_rounded_once(kind: str) -> None:
    dtype = DTYPES[kind == "bf16"]
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-120, 120, 64).astype(dtype) for _ in range(2))
    scaled = np.ldexp(b.astype(np.float32), -30 if kind == "bf16" else -20).astype(dtype)
    product = "mul.rn.f16x2 %r4, %r1, %r3;" if kind == "f16" else "fma.rn.bf16x2 %r4, %r1, %r3, %r6;"
    total = "add.rn.f16x2 %r5, %r1, %r2;" if kind == "f16" else "fma.rn.bf16x2 %r5, %r1, %r7, %r2;"
    body = f"""
        mul.wide.u32 %rd10, %r0, 4;
        add.s64 %rd11, %rd10, %rd0; ld.global.u32 %r1, [%rd11]; add.s64 %rd12, %rd10, %rd1; ld.global.u32 %r2, [%rd12];
        add.s64 %rd13, %rd10, %rd2; ld.global.u32 %r3, [%rd13]; mov.u32 %r6, 0x80008000; mov.u32 %r7, 0x3f803f80;
        {product} {total}
        add.s64 %rd14, %rd10, %rd3; st.global.u32 [%rd14], %r4; add.s64 %rd15, %rd10, %rd4; st.global.u32 [%rd15], %r5;"""
    tensors = {"a": a, "b": b, "c": scaled, "out_product": a, "out_sum": a}
    memory = execute(body, {name: tensor.view(np.uint16).copy() for name, tensor in tensors.items()})
    wide = a.astype(np.float32)
    for name, expected in (
        ("out_product", wide * scaled.astype(np.float32)),
        ("out_sum", wide + b.astype(np.float32)),
    ):
        np.testing.assert_array_equal(memory.tensor(name, np.uint16).view(dtype), expected.astype(dtype))


# name: (nvcc's text, text with the bug)
MUTATIONS = {
    "the selector of the first pair twice": (r"(mov\.\w+\s+%r\d+, )17218;", r"\g<1>16704;"),
    "a product instead of a sum": (r"add\.rn\.f16x2", "mul.rn.f16x2"),
    "steps are not shifted": (r"(shr\.u32\s+%r\d+, %r\d+, )16;", r"\g<1>0;"),
    "sums are not scaled": (r"ld\.global\.nc\.f32 (%f\d+), [^;]*;", r"mov.f32 \1, 0f3F800000;"),
}


@pytest.mark.mutation
@pytest.mark.parametrize("name", MUTATIONS)
def test_broken_ptx_is_caught(ptx: dict[tuple[str, int], PtxKernel], kernel: HostKernel, name: str) -> None:
    pattern, broken = MUTATIONS[name]
    text = ptx["int8", 0].texts[0]
    changed, count = re.subn(pattern, broken, text)
    assert count > 0
    number = ALL.index("int8-decode-64")
    case = case_for(kernel, "int8-decode-64", 5, (64, 640), share=0.9, seed=1)
    try:
        y = PtxKernel(kernel, {0: changed}).run(
            case.packed, case.x, case.bias, Launch(number), **case.epilogue
        )
    except PtxFault:
        return
    assert case.worst(y) > 1
