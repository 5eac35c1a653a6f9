"""Products of matrices in a warp's registers, of the interpreter and of the host's emulation, against numpy's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from tests.plugins.host_kernel import COMPILER, HostKernel
from tests.ptx.instructions import BITS, multiply
from tests.ptx.parser import PtxFault
from tests.refusals import refused

PAIRS = np.array(list(itertools.combinations(range(4), 2)))
Product = Callable[..., NDArray[Any]]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")
both = pytest.mark.parametrize("emulation", ["ptx", pytest.param("host", marks=needs_compiler)])


def product_of(emulation: str, request: pytest.FixtureRequest) -> Product:
    """`multiply` of an emulation. The host has products of fp16 by mma.sp, and of bytes."""
    if emulation == "ptx":
        return multiply

    def product(kind: str, a: Any, b: Any, c: Any, words: Any = None, selector: int = 0) -> NDArray[Any]:
        host: HostKernel = request.getfixturevalue("byte_kernel" if kind == "s8" else "kernel")
        if kind == "s8":
            return host.multiply_bytes(a, b.T, np.asarray(c, np.int32), words)
        return host.mma_sp(selector, a, b.T, words, c)

    return product


def random_matrix(kind: str, shape: tuple[int, int], seed: int) -> NDArray[np.generic]:
    return np.random.default_rng(seed).standard_normal(shape).astype(BITS[kind])


@pytest.mark.parametrize("kind", BITS)
def test_mma_is_a_product(kind: str) -> None:
    a, b = random_matrix(kind, (16, 16), 1), random_matrix(kind, (16, 8), 2)
    c = np.random.default_rng(3).standard_normal((16, 8)).astype(np.float32)
    expected = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_allclose(multiply(kind, a, b, c), expected, rtol=2.0**-23, atol=2.0**-40)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize(
    ("emulation", "kind"),
    [*(("ptx", kind) for kind in BITS), pytest.param("host", "f16", marks=needs_compiler)],
)
def test_sparse_mma_is_a_product(
    request: pytest.FixtureRequest, emulation: str, kind: str, selector: int
) -> None:
    """The other selector's metadata is ignored; in the interpreter a NaN that no metadata names goes nowhere."""
    rng = np.random.default_rng(selector)
    pairs = PAIRS[rng.integers(0, 6, (16, 8))]
    kept, b = random_matrix(kind, (16, 16), 4), random_matrix(kind, (32, 8), 5)
    pairs[:, 3] = (0, 2)
    dense = np.zeros((16, 32))
    words = rng.integers(0, 2**32, 32, dtype=np.uint32)
    words[[4 * g + 2 * selector + j for g in range(8) for j in range(2)]] = 0
    for row, chunk in itertools.product(range(16), range(8)):
        first, second = (int(v) for v in pairs[row, chunk])
        dense[row, 4 * chunk + first] = kept[row, 2 * chunk]
        dense[row, 4 * chunk + second] = kept[row, 2 * chunk + 1]
        lane = row % 8 * 4 + 2 * selector + chunk // 4
        words[lane] |= np.uint32((first | second << 2) << (row // 8 * 16 + chunk % 4 * 4))
    expected = dense @ b.astype(np.float64)
    if emulation == "ptx":
        b[4 * 3 + 1] = np.nan
    got = product_of(emulation, request)(kind, kept, b, np.zeros((16, 8)), words, selector)
    # The host rounds each sum, the interpreter only the last.
    close = {"rtol": 2.0**-23, "atol": 2.0**-40} if emulation == "ptx" else {"atol": 1e-5}
    np.testing.assert_allclose(got, expected, **close)


@both
def test_the_golden_vector_of_llvm(request: pytest.FixtureRequest, emulation: str) -> None:
    """Vector from LLVM's sparse-mma-2-4-f16.mlir, an integration test that runs on the hardware."""
    kept = np.add.outer(np.arange(16), np.arange(16)) + 1.0
    b = np.subtract.outer(np.arange(8), np.arange(32)).astype(float).T
    out = product_of(emulation, request)("f16", kept, b, np.zeros((16, 8)), np.full(32, 0x88888888))
    assert out[0].tolist() == [-2720, -2584, -2448, -2312, -2176, -2040, -1904, -1768]
    assert out[7].tolist() == [-4400, -4152, -3904, -3656, -3408, -3160, -2912, -2664]
    assert out[15].tolist() == [-6320, -5944, -5568, -5192, -4816, -4440, -4064, -3688]


@both
@pytest.mark.parametrize(("kind", "columns"), [("f16", 32), ("s8", 32), ("s8", 64)])
def test_metadata_out_of_order_is_a_fault(
    request: pytest.FixtureRequest, emulation: str, kind: str, columns: int
) -> None:
    dtype = BITS.get(kind, np.dtype(np.int8))
    a, b, c = (np.ones(shape, dtype) for shape in ((16, columns // 2), (columns, 8), (16, 8)))
    with refused((PtxFault, RuntimeError)):
        product_of(emulation, request)(kind, a, b, c, np.full(32, 0x22222222))


def random_bytes(rows: int, columns: int, seed: int) -> NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-128, 128, (rows, columns)).astype(np.int8)


@both
def test_product_of_bytes_is_exact(request: pytest.FixtureRequest, emulation: str) -> None:
    a, b = random_bytes(16, 32, 1), random_bytes(32, 8, 2)
    c = np.random.default_rng(3).integers(-(2**30), 2**30, (16, 8)).astype(np.int32)
    expected = a.astype(np.int64) @ b.astype(np.int64) + c
    np.testing.assert_array_equal(product_of(emulation, request)("s8", a, b, c), expected)


def test_sums_of_bytes_wrap() -> None:
    c = np.full((16, 8), 2**31 - 1, np.int32)
    got = multiply("s8", np.ones((16, 32)), np.ones((32, 8)), c)
    np.testing.assert_array_equal(got, np.full((16, 8), -(2**31) + 31))


@pytest.mark.parametrize(
    ("emulation", "columns", "selector"),
    [
        *(("ptx", *form) for form in ((64, 0), (32, 0), (32, 1))),
        *(pytest.param("host", columns, 0, marks=needs_compiler) for columns in (64, 32)),
    ],
)
@pytest.mark.parametrize("turn", range(len(PAIRS)))
def test_sparse_product_of_bytes_takes_all_masks(
    request: pytest.FixtureRequest, turn: int, emulation: str, columns: int, selector: int
) -> None:
    """Over all turns every chunk of every row has each of the six masks."""
    chunks = columns // 4
    pairs = PAIRS[np.add.outer(5 * np.arange(16), np.arange(chunks) + turn) % len(PAIRS)]
    kept, b = random_bytes(16, columns // 2, turn), random_bytes(columns, 8, 10 + turn)
    words, dense = np.zeros(32, np.uint32), np.zeros((16, columns), np.int64)
    for row, chunk in itertools.product(range(16), range(chunks)):
        first, second = (int(v) for v in pairs[row, chunk])
        dense[row, 4 * chunk + first], dense[row, 4 * chunk + second] = kept[row, 2 * chunk : 2 * chunk + 2]
        # The ISA's figures: T0 has row 0, T1 row 8, both columns 0..31; T2 and T3 the same rows, columns 32..63. Of 32
        # columns the selector names the pair, and the words of the other pair are ignored.
        lane = 4 * (row % 8) + row // 8 + 2 * (chunk // 8 + selector)
        words[lane] |= np.uint32((first | second << 2) << 4 * (chunk % 8))
    c = np.random.default_rng(turn).integers(-(2**30), 2**30, (16, 8)).astype(np.int32)
    got = product_of(emulation, request)("s8", kept, b, c, words, selector)
    np.testing.assert_array_equal(got, dense @ b.astype(np.int64) + c)


def test_sparse_product_reads_metadata_of_torch() -> None:
    """PyTorch compresses a weight for CUTLASS's kernels, whose warps take the words in the order of their lanes."""
    rng = np.random.default_rng(4)
    kept = rng.permuted(np.tile([True, True, False, False], (16, 16, 1)), axis=-1).reshape(16, 64)
    a, b = np.where(kept, random_bytes(16, 64, 5) | 1, 0).astype(np.int8), random_bytes(64, 8, 6)
    values, words = sparse_semi_structured_from_dense_cutlass(torch.from_numpy(a))
    lanes = words.numpy().reshape(-1).view(np.uint32)
    got = multiply("s8", values.numpy(), b, np.zeros((16, 8)), lanes)
    np.testing.assert_array_equal(got, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize(("columns", "selector"), [(32, 2), (64, 1)])
def test_a_selector_beyond_the_last_is_a_fault(columns: int, selector: int) -> None:
    a, b = np.ones((16, columns // 2)), np.ones((columns, 8))
    with refused(PtxFault):
        multiply("s8", a, b, np.zeros((16, 8)), np.full(32, 0x44444444), selector)
