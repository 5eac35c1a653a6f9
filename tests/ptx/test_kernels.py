"""The kernels' PTX, run by the interpreter; results lie within the error bound of float64."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.plugins.configs import ALL, CONFIGS, case_for
from tests.plugins.host_kernel import HostKernel, Launch, arguments_of
from tests.plugins.machine_code import NO_CODE, WHY_NO_CODE
from tests.plugins.mosaic_cases import ACTIVATIONS, DTYPES, Case, make_case
from tests.ptx.kernel import SCALARS, PtxKernel, ptx_of_scalar
from tests.ptx.parser import PtxFault

pytestmark = pytest.mark.skipif(NO_CODE, reason=WHY_NO_CODE)

# ptx.cuh has these as asm, so no emulation of the source runs them.  Copies of weights, which have no size, are left out:
# the loop over 2:4 slabs contains copies of dense slabs too, and by then none is left to copy.
ASM = re.compile(
    r"mma|ldmatrix|movmatrix|cp\.async(?!.*(?:cache_hint|, 16$))|createpolicy|cvt\.(?:rn\.b?f16x2|f32\.f16)"
    r"|ex2|rcp|atom|bar\.red"
)


@pytest.fixture(scope="session")
def texts() -> dict[int, str]:
    return {scalar: ptx_of_scalar(scalar) for scalar in range(len(SCALARS))}


@pytest.fixture(scope="session")
def ptx(kernel: HostKernel, texts: dict[int, str]) -> PtxKernel:
    return PtxKernel(kernel, texts)


def test_every_configuration_is_there_and_tested(ptx: PtxKernel, kernel: HostKernel) -> None:
    assert tuple(kernel.configs()) == ALL
    for scalar in range(len(SCALARS)):
        assert sorted(ptx.entries(scalar)) == list(range(len(CONFIGS)))


@pytest.mark.parametrize(("scalar", "kind"), enumerate(("f16", "bf16")))
def test_products_have_their_operands_in_order(texts: dict[int, str], scalar: int, kind: str) -> None:
    four, two = r"\{(%f\d+,?){4}\}", r"\{(%r\d+,?){%d}\}"
    dense = rf"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.{kind}\.{kind}\.f32 "
    sparse = rf"mma\.sp::ordered_metadata\.sync\.aligned\.m16n8k32\.row\.col\.f32\.{kind}\.{kind}\.f32 "
    squeezed = re.sub(r", +", ",", texts[scalar]).replace("} ,", "},")
    found = re.findall(dense, squeezed)
    shaped = re.findall(
        rf"{dense}\s*{four},{two.replace('%d', '4')},{two.replace('%d', '2')},{four};", squeezed
    )
    assert found and len(shaped) == len(found)
    selectors = re.findall(
        rf"{sparse}\s*{four},{two.replace('%d', '4')},{two.replace('%d', '4')},{four},%r\d+,([01]);", squeezed
    )
    assert len(selectors) == len(re.findall(sparse, squeezed)) > 0
    assert {groups[-1] for groups in selectors} == {"0", "1"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_ring_position(ptx: PtxKernel, kernel: HostKernel, config: str, dtype: np.dtype) -> None:
    """K takes twice the ring, so slabs modulo stages takes every value in fp16, with mixed slabs, and with dense or 2:4.

    The problems vary ragged K, N (every width of a store of Y) and M, panels, parts, activation, bias and residual.
    Together they run every asm statement of the kernel.
    """
    shape = kernel.configs()[config]
    step = 1 if dtype == DTYPES[0] else 2  # the types' rings are the same code
    for turn, slabs in enumerate(range(1, 2 * shape.stages + 1, step)):
        for i, share in enumerate((0.5, turn % 2) if step == 1 else (0.0, 1.0, 0.5)):
            n = 3 * slabs + i
            columns = 64 * slabs - 4 * (n % 4)
            rows = shape.panel_rows * (1 + n % 2) - (0, 8, 4, 2, 1)[n % 5]
            tokens = (1, 7, shape.tokens, shape.tokens + 1, 3, 8)[n % 6]
            case = case_for(
                kernel, config, tokens, (rows, columns), dtype=dtype, share=share, bias=n % 3 > 0, seed=n,
                residual=n % 4 > 1, activation=list(ACTIVATIONS)[n % 7 % 4], gated=n % 5 == 1,
            )  # fmt: skip
            launch = Launch(CONFIGS.index(config), DTYPES.index(dtype), 1 + (0, 2, 0, 3)[n % 4], seed=n)
            assert case.worst(ptx.run(case.packed, case.x, case.bias, launch, **case.epilogue)) <= 1, n
    machine = ptx.machine(DTYPES.index(dtype), CONFIGS.index(config))
    missed = [c.text for c, ran in zip(machine.entry.code, machine.ran, strict=True) if not ran]
    assert not [text for text in missed if ASM.match(text)]


@pytest.mark.parametrize("gated", [False, True])
def test_pointers_that_are_no_parameters(ptx: PtxKernel, kernel: HostKernel, gated: bool) -> None:
    """An index with so many panels that its pointers and the table of parts do not both fit."""
    config, rows = "decode-64", 480 * 64 // (1 + gated)
    case = case_for(kernel, config, 3, (rows - 3, 64), gated=gated, seed=5)
    launch = Launch(CONFIGS.index(config), parts=30)
    index = kernel.index(case.packed, launch.config)
    arguments = arguments_of(case.packed, 3, 30, {"index": index.ctypes.data})
    assert kernel.table(arguments, launch.config).pointers == -1
    y = ptx.run(case.packed, case.x, case.bias, launch, **case.epilogue)
    assert case.worst(y) <= 1


def with_a_nan(ptx: PtxKernel, case: Case, launch: Launch) -> float:
    """Worst error of the other tokens when X begins with a NaN, which is where empty copies point."""
    x = case.x.copy()
    x[0, 0] = np.array(np.nan, case.dtype).view(np.uint16)
    y = ptx.run(case.packed, x, case.bias, launch, **case.epilogue)
    reached = np.isnan(y[0].view(case.dtype).astype(np.float32)).any()
    y[0] = case.expected[0].astype(case.dtype).view(np.uint16)
    return case.worst(y) if reached else np.inf


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_nan_stays_in_its_token(ptx: PtxKernel, kernel: HostKernel, config: str, dtype: np.dtype) -> None:
    """Columns beyond K and tokens beyond M read as zeros, with 8- and with 16-byte copies."""
    for columns in (72, 76):
        case = case_for(kernel, config, 3, (20, columns), dtype=dtype, seed=columns)
        assert with_a_nan(ptx, case, Launch(CONFIGS.index(config), DTYPES.index(dtype))) <= 1


Replacement = str | Callable[[re.Match[str]], str]
SELECTOR = r"(mma\.sp[^;]*), ([01]);"
# name: (nvcc's text, text with the bug)
MUTATIONS: dict[str, tuple[str, Replacement]] = {
    "selectors exchanged": (SELECTOR, lambda m: f"{m[1]}, {1 - int(m[2])};"),
    "always the first selector": (SELECTOR, r"\1, 0;"),
    "a of mma in another order": (r"(mma\.sync[^;{]*\{[^}]*\}, \{[^,]*),([^,]*),([^,]*),", r"\1,\3,\2,"),
    "a of mma.sp in another order": (r"(mma\.sp[^;{]*\{[^}]*\}, \{[^,]*),([^,]*),([^,]*),", r"\1,\3,\2,"),
    "b of mma exchanged": (r"(mma\.sync[^;{]*\{[^}]*\}, \{[^}]*\}, \{)([^,]*),([^}]*)", r"\1\3,\2"),
    "b of mma.sp in another order": (r"(mma\.sp[^;{]*\{[^}]*\}, \{[^}]*\}, \{[^,]*),([^,]*),([^,]*),", r"\1,\3,\2,"),
    "b of mma.sp is a": (r"(mma\.sp[^;{]*\{[^}]*\}, )(\{[^}]*\}), \{[^}]*\}", r"\1\2, \2"),
    "sums begin anew": (r"(mma\.[^;{]*\{[^}]*\}, \{[^}]*\}, \{[^}]*\}, )\{[^}]*\}",
        r"\1{0f00000000,0f00000000,0f00000000,0f00000000}"),
    "sums in another order": (r"(mma\.[^;{]*\{)([^,]*),([^,]*),", r"\1\3,\2,"),
    "the other 16-bit type": (r"f32\.f16\.f16\.f32", "f32.bf16.bf16.f32"),
    "matrices in another order": (r"(ldmatrix[^{]*\{)([^,]*),([^,]*),", r"\1\3,\2,"),
    "matrices transposed": (r"x4\.shared", "x4.trans.shared"),
    "output not transposed": (r"movmatrix\.sync\.aligned\.m8n8\.trans\.b16", "mov.b32"),
    "halves of a pair exchanged": (r"(cvt\.rn\.f16x2\.f32 %r\d+), (%f\d+), (%f\d+)", r"\1, \3, \2"),
    "clamps below zero": (r"cvt\.rn\.f16x2", "cvt.rn.relu.f16x2"),
    "bias not added": (r"cvt\.f32\.f16 (%f\d+), %rs\d+;", r"mov.f32 \1, 0f00000000;"),
    "exponents not taken": (r"ex2\.approx\.ftz\.f32", "mov.f32"),
    "reciprocals not taken": (r"rcp\.approx\.ftz\.f32", "mov.f32"),
    "reads 8 bytes of what is not there": (r"(cp\.async\.ca[^;]*, 8), %r\d+;", r"\1;"),
    "reads 16 bytes of what is not there": (r"(cp\.async\.cg[^;]*B \[[^;]*, 16), %r\d+;", r"\1;"),
    "reads no tokens": (r"(cp\.async\.c[ag][^;]*, (?:16|8)), %r\d+;", r"\1, 0;"),
    "copies half": (r"(cp\.async\.ca[^;]*), 8, (%r\d+);", r"\1, 4, \2;"),
    "one wait too few": (r"wait_group \d;", "wait_group 3;"),
    "groups not committed": (r"cp\.async\.commit_group;", ""),
    "the first part of all blocks": (r"mov\.u32 \s*(%r\d+), %ctaid\.x;", r"mov.u32 \1, 0;"),
    "another word of the table": (r"(add\.s64[^;]*), 252;", r"\1, 256;"),
    "counts by two": (r"(atom\.acq_rel\.gpu\.global\.add\.s32[^;]*), 1;", r"\1, 2;"),
    "all threads must end": (r"bar\.red\.or", "bar.red.and"),
    "counter not reset": (r"(mov\.u32 \s*(%r\d+), 0;)\s*st\.global\.u32 \s*\[%rd\d+\], \2;", r"\1"),
    "another argument": (r"(ld\.param\.v2\.u32[^;]*)\+208\]", r"\1+200]"),
}  # fmt: skip


def noticed(ptx: PtxKernel, rows: int) -> bool:
    """True when a battery of runs of decode-64 ends in a fault or a wrong result."""
    for tokens, columns, parts, activation in ((5, 324, 1, ""), (18, 328, 3, "gelu")):
        case = make_case(
            tokens,
            (2 * rows + 6, columns),
            rows,
            activation=activation,
            residual=bool(activation),
            seed=tokens,
        )
        launch = Launch(0, parts=parts)
        try:
            y = ptx.run(case.packed, case.x, case.bias, launch, **case.epilogue)
            if case.worst(y) > 1 or with_a_nan(ptx, case, launch) > 1:
                return True
        except PtxFault:
            return True
    return False


@pytest.mark.parametrize("name", ["as it is", *MUTATIONS])
def test_broken_ptx_is_noticed(kernel: HostKernel, texts: dict[int, str], name: str) -> None:
    text = texts[0]
    if name in MUTATIONS:
        pattern, replacement = MUTATIONS[name]
        text = re.sub(pattern, replacement, text)
        assert text != texts[0], "the mutation no longer fits what nvcc writes"
    assert noticed(PtxKernel(kernel, {0: text}), kernel.configs()[CONFIGS[0]].panel_rows) == (
        name in MUTATIONS
    )
