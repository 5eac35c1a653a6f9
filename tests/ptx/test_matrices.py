"""The interpreter's matrix instructions, against products and the rows of shared memory that they read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.ptx.instructions import BITS, Tensors, execute, multiply
from tests.ptx.parser import PtxFault
from tests.refusals import refused


def random_matrix(kind: str, shape: tuple[int, int], seed: int) -> NDArray[np.generic]:
    return np.random.default_rng(seed).standard_normal(shape).astype(BITS[kind])


@pytest.mark.parametrize("kind", BITS)
def test_mma_is_a_product(kind: str) -> None:
    a, b = random_matrix(kind, (16, 16), 1), random_matrix(kind, (16, 8), 2)
    c = np.random.default_rng(3).standard_normal((16, 8)).astype(np.float32)
    expected = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_allclose(multiply(kind, a, b, c), expected, rtol=2.0**-23, atol=2.0**-40)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("kind", BITS)
def test_sparse_mma_is_a_product(kind: str, selector: int) -> None:
    """The other selector's metadata is ignored, and a NaN that no metadata names goes nowhere."""
    rng = np.random.default_rng(selector)
    pairs = np.array(list(itertools.combinations(range(4), 2)))[rng.integers(0, 6, (16, 8))]
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
    b[4 * 3 + 1] = np.nan
    got = multiply(kind, kept, b, np.zeros((16, 8)), words, selector)
    np.testing.assert_allclose(got, expected, rtol=2.0**-23, atol=2.0**-40)


def test_the_golden_vector_of_llvm() -> None:
    """Vector from LLVM's sparse-mma-2-4-f16.mlir, an integration test that runs on the hardware."""
    kept = np.add.outer(np.arange(16), np.arange(16)) + 1.0
    b = np.subtract.outer(np.arange(8), np.arange(32)).astype(float).T
    out = multiply("f16", kept, b, np.zeros((16, 8)), np.full(32, 0x88888888))
    assert out[0].tolist() == [-2720, -2584, -2448, -2312, -2176, -2040, -1904, -1768]
    assert out[7].tolist() == [-4400, -4152, -3904, -3656, -3408, -3160, -2912, -2664]
    assert out[15].tolist() == [-6320, -5944, -5568, -5192, -4816, -4440, -4064, -3688]


def test_metadata_out_of_order_is_a_fault() -> None:
    with refused(PtxFault):
        multiply("f16", np.ones((16, 16)), np.ones((32, 8)), np.zeros((16, 8)), np.full(32, 0x22222222))


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_come_from_rows_of_shared_memory(transposed: bool) -> None:
    """ldmatrix.x4: lane 8j + i names row i of matrix j; movmatrix transposes one."""
    values = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    tensors: Tensors = {
        "in": values,
        "out": np.zeros((32, 4), np.uint32),
        "out_moved": np.zeros(32, np.uint32),
    }
    body = f"""
        mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd10, %rd0; add.s64 %rd12, %rd10, %rd1;
        ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd11];
        mov.u32 %r5, pool; shl.b32 %r6, %r0, 4; xor.b32 %r7, %r6, 16; add.s32 %r8, %r5, %r7;
        st.shared.v4.u32 [%r8], {{%r1, %r2, %r3, %r4}}; bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4{".trans" if transposed else ""}.shared.b16 {{%r1, %r2, %r3, %r4}}, [%r8];
        st.global.v4.u32 [%rd12], {{%r1, %r2, %r3, %r4}};
        movmatrix.sync.aligned.m8n8.trans.b16 %r9, %r2;
        mul.wide.u32 %rd13, %r0, 4; add.s64 %rd14, %rd13, %rd2; st.global.u32 [%rd14], %r9;"""
    memory = execute(body, tensors, shared=512)
    got = memory.tensor("out", np.uint16).reshape(8, 4, 4, 2)  # group, quad, matrix, value
    expected = values.transpose(0, 2, 1) if transposed else values
    np.testing.assert_array_equal(got.transpose(2, 0, 1, 3).reshape(4, 8, 8), expected)
    moved = memory.tensor("out_moved", np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(moved, expected[1].T)
